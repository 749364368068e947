// Groups in and out of a format under scales that are there.
#pragma once

#include <type_traits>

#include "cpu/chunk.h"
#include "cpu/int_lanes.h"
#include "cpu/random.h"
#include "cpu/scales.h"
#include "numerics/quotient.h"

namespace qscale::cpu {
namespace {

// x in and out of the format, for any element and every option: scalar arithmetic, for the compiler to vectorize.
template <class Element>
[[gnu::noinline]] void round_trip(Chunk& c, int64_t n, const Element& any, const uint32_t* random) {
  with_rounding(any, [&](const Element& element) __attribute__((always_inline)) {
    for (int64_t i = 0; i < n; ++i) {
      const float quotient = c.x[i] / divisor_of(c.scale[i]);
      c.x[i] = value_of(quotient, c.zero[i], element, is_stochastic(element) ? random[i] : 0u) * c.scale[i];
    }
  });
}

// Groups of one row of a tile, `index` being the place of x in its tensor.
template <class T, class Element>
void round_trip(const T* x, T* y, int64_t n, int64_t group, const float* scale, const float* zero,
                const Element& element, uint64_t index, uint64_t seed) {
  Chunk c;
  RandomChunk random;
  for (int64_t start = 0; start < n; start += kChunk) {
    const int64_t some = n - start < kChunk ? n - start : kChunk;
    spread(c, start, some, group, scale, zero);
    for (int64_t i = 0; i < some; ++i) c.x[i] = to_float(x[start + i]);
    if (is_stochastic(element)) draw(index + static_cast<uint64_t>(start), some, seed, random);
    round_trip(c, some, element, random.first);
    for (int64_t i = 0; i < some; ++i) from_float(c.x[i], y[start + i]);
  }
}

// bfloat16 is taken 32 elements at a time as its even and its odd ones: widening and narrowing are cheaper so.
template <class V, class T, class Function>
[[gnu::always_inline]] inline void transform(const T* x, T* y, int64_t n, Function function) {
  int64_t i = 0;
  if constexpr (V::has_even_odd && std::is_same_v<T, BFloat16>) {
    for (; i + 2 * V::width <= n; i += 2 * V::width) {
      typename V::Floats even, odd;
      V::load_even_odd(x + i, even, odd);
      V::store_even_odd(y + i, function(even), function(odd));
    }
  }
  for (; i + V::width <= n; i += V::width) V::store(y + i, function(V::load(x + i)));
  if (i < n) V::store_first(y + i, function(V::load_first(x + i, n - i)), n - i);
}

// x / scale, as numerics/quotient.h has it.
template <class V, int steps>
[[gnu::always_inline]] inline typename V::Floats quotient(typename V::Floats x, typename V::Floats scale,
                                                          typename V::Floats reciprocal) {
  auto q = V::multiply(x, reciprocal);
  for (int step = 0; step < steps; ++step) {
    q = V::multiply_add(V::negative_multiply_add(q, scale, x), reciprocal, q);
  }
  return q;
}

// How a vector of quotients, none of them a NaN, becomes values, where there is such code: `held` where they may be past
// the ends of the grid. Zeros come out positive; `signed_zero` gives them the sign of x where the format has two.
template <class V, bool held>
struct FastInt {
  using Floats = typename V::Floats;
  Floats low, high, shift = V::splat(0x1.8p23f);  // added to a number below 2**22, leaves the nearest integer

  explicit FastInt(const IntGrid& grid) : low(V::splat(grid.qmin)), high(V::splat(grid.qmax)) {}
  static bool serves(const IntGrid& grid) {
    return grid.rounding == Rounding::even && grid.zero_point == ZeroPoint::none;
  }
  static int smallest(const IntGrid&) { return -2; }  // below 1/4 every code is zero

  [[gnu::always_inline]] Floats operator()(Floats quotient) const {
    if constexpr (held) quotient = V::clamp(quotient, low, high);
    return V::subtract(V::add(quotient, shift), shift);
  }
  [[gnu::always_inline]] Floats signed_zero(Floats y, Floats) const { return y; }
};

// The float32 number 1.5 * 2**(23-M) * p, where p is the power of two at or below the value, has a last bit worth one
// step of the grid there; for magnitudes up to 2**100.
template <class V, bool held>
struct FastFloat {
  using Floats = typename V::Floats;
  Floats largest, smallest_normal, shift, sign;

  explicit FastFloat(const FloatGrid& grid)
      : largest(V::splat(grid.largest)),
        smallest_normal(V::splat(power_of_two(grid.min_exponent))),
        shift(V::splat(1.5f * power_of_two(23 - grid.mantissa_bits))),
        sign(V::splat(has_negative_zero(grid) ? -0.0f : 0.0f)) {}
  static bool serves(const FloatGrid& grid) {
    return grid.rounding == Rounding::even && grid.mantissa_bits > 0 && grid.largest <= 0x1p100f;
  }
  // Quotients below a quarter of a step end as zero.
  static int smallest(const FloatGrid& grid) { return grid.min_exponent - grid.mantissa_bits - 2; }

  [[gnu::always_inline]] Floats operator()(Floats quotient) const {
    if constexpr (held) quotient = V::hold_magnitude(quotient, largest);
    const Floats power = V::larger(V::power_below(quotient), smallest_normal);
    return V::negative_multiply_add(power, shift, V::multiply_add(power, shift, quotient));
  }
  [[gnu::always_inline]] Floats signed_zero(Floats y, Floats x) const { return V::with_sign_where(y, x, sign); }
};

template <class V, bool held>
struct FastCodebook {
  using Floats = typename V::Floats;
  typename V::Book book;

  explicit FastCodebook(const Codebook& table) : book(V::prepare(table)) {}
  static bool serves(const Codebook&) { return true; }
  static int smallest(const Codebook&) { return -10; }  // no midpoint but zero is closer to zero

  [[gnu::always_inline]] Floats operator()(Floats quotient) const {
    if constexpr (held) quotient = V::hold_magnitude(quotient, V::splat(1.0f));
    return V::nearest(quotient, book);
  }
  [[gnu::always_inline]] Floats signed_zero(Floats y, Floats) const { return y; }
};

template <class V, bool held>
FastInt<V, held> fast_for(const IntGrid& grid) {
  return FastInt<V, held>(grid);
}
template <class V, bool held>
FastFloat<V, held> fast_for(const FloatGrid& grid) {
  return FastFloat<V, held>(grid);
}
template <class V, bool held>
FastCodebook<V, held> fast_for(const Codebook& table) {
  return FastCodebook<V, held>(table);
}

template <class V, class T, class Element, class Fast>
void fast_round_trips(const Tile& tile, const TileScales& scales, const FakeQuant<Element>& job, const Fast& fast) {
  using Floats = typename V::Floats;
  constexpr int64_t step = V::bytes / static_cast<int64_t>(sizeof(T));
  const float least = smallest_fast_scale(Fast::smallest(job.element));
  const bool exact = is_power_of_two(job.scaling.kind);  // then so is the product with the reciprocal
  const bool one_step = std::is_same_v<T, BFloat16> && job.scaling.kind == ScaleKind::float32 &&
                        is_all_ones(job.scaling.largest);
  float reciprocal[kTileGroups];
  int32_t serves[kTileGroups], missing = 0;
  for (int64_t g = 0; g < kTileGroups; ++g) reciprocal[g] = 1.0f / scales.scale[g];
  for (int64_t g = 0; g < kTileGroups; ++g) {
    serves[g] = (scales.scale[g] >= least) & (scales.scale[g] <= kLargestFastScale);
    missing += (g < tile.count) & (serves[g] ^ 1);
  }
  const bool serves_all = missing == 0;
  // The number of steps is asked outside the loops over vectors.
  const auto run = [&](auto steps) __attribute__((always_inline)) {
    const auto some = [&](const T* x, T* y, int64_t n, Floats factor, Floats inverse) __attribute__((always_inline)) {
      transform<V>(x, y, n, [&](Floats v) __attribute__((always_inline)) {
        const Floats value = fast(quotient<V, decltype(steps)::value>(v, factor, inverse));
        return fast.signed_zero(V::multiply(value, factor), v);
      });
    };
    const auto one_group = [&](const T* x, T* y, int64_t n, int64_t g) __attribute__((always_inline)) {
      some(x, y, n, V::splat(scales.scale[g]), V::splat(reciprocal[g]));
    };
    for (int64_t row = 0; row < tile.rows; ++row) {
      const int64_t start = tile.start + row * tile.stride;
      const T* x = static_cast<const T*>(job.x) + start;
      T* y = static_cast<T*>(job.y) + start;
      if (!serves_all) {
        for (int64_t g = 0; g < tile.count; ++g, x += tile.group, y += tile.group) {
          const int64_t n = tile.length(g);
          if (serves[g]) {
            one_group(x, y, n, g);
          } else {
            round_trip(x, y, n, n, &scales.scale[g], &scales.zero[g], job.element, 0u, 0u);
          }
        }
        continue;
      }
      with_vectors<V, T>(tile, [&](auto vectors) __attribute__((always_inline)) {
        constexpr int64_t group = vectors == 0 ? step / 2 : vectors * step;
        if constexpr (vectors < 0) {
          for (int64_t g = 0; g < tile.count; ++g) one_group(x + g * tile.group, y + g * tile.group, tile.length(g), g);
        } else if constexpr (vectors == 0 && V::has_even_odd && std::is_same_v<T, BFloat16>) {
          // Of the even elements of a vector, and of the odd ones, half are in either group.
          for (int64_t g = 0; g < kTileGroups; g += 2) {
            some(x + g * group, y + g * group, step, V::splat_halves(scales.scale[g], scales.scale[g + 1]),
                 V::splat_halves(reciprocal[g], reciprocal[g + 1]));
          }
        } else {
          for (int64_t g = 0; g < kTileGroups; ++g) one_group(x + g * group, y + g * group, group, g);
        }
      });
    }
  };
  if (exact) return run(std::integral_constant<int, 0>());
  if (one_step) return run(std::integral_constant<int, 1>());
  run(std::integral_constant<int, 2>());
}

// Integers under scales of the caller. Where a scale is ordinary, a quotient that could matter is exact without a
// division: x is first held to two steps beyond the ends, and below 2**-60 no quotient changes a code, whatever real
// zero point is added.
template <class V, class T>
void given_round_trips(const Tile& tile, const TileScales& scales, const FakeQuant<IntGrid>& job) {
  using Floats = typename V::Floats;
  constexpr float largest_zero = 0x1p20f;
  const IntLanes<V> lanes(job.element);
  const float least = smallest_fast_scale(-60), qmin = job.element.qmin - 2.0f, qmax = job.element.qmax + 2.0f;
  for (int64_t row = 0; row < tile.rows; ++row) {
    for (int64_t g = 0; g < tile.count; ++g) {
      const float scale = scales.scale[g], zero = scales.zero[g];
      const GroupLanes<V> group(scale, zero);
      const int64_t at = tile.start + row * tile.stride + g * tile.group;
      const T* x = static_cast<const T*>(job.x) + at;
      T* y = static_cast<T*>(job.y) + at;
      const auto restored = [&](Floats quotient) __attribute__((always_inline)) {
        return V::multiply(lanes.value(lanes.raw(quotient, group.zero), group.zero), group.scale);
      };
      if (scale >= least && scale <= kLargestFastScale && fabsf(zero) <= largest_zero) {
        const Floats reciprocal = V::splat(1.0f / scale);
        const Floats low = V::splat((qmin - zero) * scale), high = V::splat((qmax - zero) * scale);
        transform<V>(x, y, tile.length(g), [&](Floats v) __attribute__((always_inline)) {
          return restored(quotient<V, 2>(V::clamp(v, low, high), group.scale, reciprocal));
        });
      } else {
        transform<V>(x, y, tile.length(g), [&](Floats v) __attribute__((always_inline)) {
          return restored(V::divide(v, group.divisor));
        });
      }
    }
  }
}

template <class V, class T, class Element>
void round_trips(const Tile& tile, const TileScales& scales, const FakeQuant<Element>& job) {
  if constexpr (V::has_fma) {
    if constexpr (std::is_same_v<Element, IntGrid>) {
      if (job.scale != nullptr && IntLanes<V>::serves(job.element)) return given_round_trips<V, T>(tile, scales, job);
    }
    // Under a scale of the caller, a NaN may stand among numbers.
    if (job.scale == nullptr && decltype(fast_for<V, true>(job.element))::serves(job.element)) {
      if (job.scaling.kind == ScaleKind::float32 && !may_exceed(job.element, job.scaling.largest)) {
        return fast_round_trips<V, T>(tile, scales, job, fast_for<V, false>(job.element));
      }
      return fast_round_trips<V, T>(tile, scales, job, fast_for<V, true>(job.element));
    }
  }
  const int64_t n = (tile.count - 1) * tile.group + tile.last;
  for (int64_t row = 0; row < tile.rows; ++row) {
    const int64_t start = tile.start + row * tile.stride;
    round_trip(static_cast<const T*>(job.x) + start, static_cast<T*>(job.y) + start, n, tile.group, scales.scale,
               scales.zero, job.element, static_cast<uint64_t>(start), job.seed);
  }
}

}  // namespace
}  // namespace qscale::cpu
