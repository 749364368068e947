// Groups in and out of a format under scales that are there.
#pragma once

#include <type_traits>

#include "cpu/random.h"
#include "cpu/scales.h"

namespace qscale::cpu {
namespace {

// Any element and every option, a chunk at a time: the loops are of scalar arithmetic, for the compiler to vectorize.
// `index` is the place of x in its tensor.
template <class T, class Element>
void round_trip(const T* x, T* y, int64_t n, float scale, float zero, const Element& element, uint64_t index,
                uint64_t seed) {
  const float divisor = divisor_of(scale);
  float chunk[kChunk];
  RandomChunk random;
  for (int64_t start = 0; start < n; start += kChunk) {
    const int64_t some = n - start < kChunk ? n - start : kChunk;
    for (int64_t i = 0; i < some; ++i) chunk[i] = to_float(x[start + i]) / divisor;
    if (is_stochastic(element)) {
      draw(index + static_cast<uint64_t>(start), some, seed, random);
      for (int64_t i = 0; i < some; ++i) chunk[i] = value_of(chunk[i], zero, element, random.first[i]) * scale;
    } else {
      for (int64_t i = 0; i < some; ++i) chunk[i] = value_of(chunk[i], zero, element, 0u) * scale;
    }
    for (int64_t i = 0; i < some; ++i) from_float(chunk[i], y[start + i]);
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

// x / scale at a third of the division's cost, correctly rounded down to the quotient whose remainder underflows; the
// sign of a zero is lost. Two Newton steps on the quotient: the first makes it faithful, and by Markstein's theorem (IBM
// J. Res. Dev. 34, 1990) the second then makes it exact, given a correctly rounded reciprocal and remainders that are
// multiples of 2**-149.
template <class V>
[[gnu::always_inline]] inline typename V::Floats quotient(typename V::Floats x, typename V::Floats scale,
                                                          typename V::Floats reciprocal) {
  auto q = V::multiply(x, reciprocal);
  q = V::multiply_add(V::negative_multiply_add(q, scale, x), reciprocal, q);
  return V::multiply_add(V::negative_multiply_add(q, scale, x), reciprocal, q);
}

// From this scale on, quotients down to 2**exponent are exact; smaller ones must not matter beyond their sign.
QSCALE_HD float smallest_fast_scale(int exponent) {
  const int lowest = -103 - exponent;
  return power_of_two(lowest < -100 ? -100 : lowest);
}

constexpr float kLargestFastScale = 0x1p100f;

// How a vector of quotients, none of them a NaN, becomes values, where there is such code: `held` where they may be past the ends of the
// grid. Zeros have any sign where `signed_zero` says that they take that of x.
template <class V, bool held>
struct FastInt {
  using Floats = typename V::Floats;
  static constexpr bool signed_zero = false;
  Floats low, high, shift = V::splat(0x1.8p23f);  // added to a number below 2**22, leaves the nearest integer

  explicit FastInt(const IntGrid& grid) : low(V::splat(grid.qmin)), high(V::splat(grid.qmax)) {}
  static bool serves(const IntGrid& grid) {
    return grid.rounding == Rounding::even && grid.zero_point == ZeroPoint::none;
  }
  static int smallest(const IntGrid&) { return -2; }  // below 1/4 every code is zero

  Floats operator()(Floats quotient) const {
    if constexpr (held) quotient = V::clamp(quotient, low, high);
    return V::subtract(V::add(quotient, shift), shift);
  }
};

// The float32 number 1.5 * 2**(23-M) * p, where p is the power of two at or below the value, has a last bit worth one
// step of the grid there; for magnitudes up to 2**100.
template <class V, bool held>
struct FastFloat {
  using Floats = typename V::Floats;
  static constexpr bool signed_zero = true;
  Floats largest, smallest_normal, shift;

  explicit FastFloat(const FloatGrid& grid)
      : largest(V::splat(grid.largest)),
        smallest_normal(V::splat(power_of_two(grid.min_exponent))),
        shift(V::splat(1.5f * power_of_two(23 - grid.mantissa_bits))) {}
  static bool serves(const FloatGrid& grid) {
    return grid.rounding == Rounding::even && grid.mantissa_bits > 0 && grid.largest <= 0x1p100f &&
           has_negative_zero(grid);
  }
  // Quotients below a quarter of a step end as zero.
  static int smallest(const FloatGrid& grid) { return grid.min_exponent - grid.mantissa_bits - 2; }

  Floats operator()(Floats quotient) const {
    if constexpr (held) quotient = V::hold_magnitude(quotient, largest);
    const Floats power = V::larger(V::power_below(quotient), smallest_normal);
    return V::negative_multiply_add(power, shift, V::multiply_add(power, shift, quotient));
  }
};

template <class V, bool held>
struct FastCodebook {
  using Floats = typename V::Floats;
  static constexpr bool signed_zero = false;
  typename V::Book book;

  explicit FastCodebook(const Codebook& table) : book(V::prepare(table)) {}
  static bool serves(const Codebook&) { return true; }
  static int smallest(const Codebook&) { return -10; }  // no midpoint but zero is closer to zero

  Floats operator()(Floats quotient) const { return V::nearest(quotient, book); }
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

// A scale that is the range over `largest`, but for a rounding, takes the range to the ends of the grid and no further.
QSCALE_HD bool may_exceed(const IntGrid& grid, float largest) { return grid.qmax != largest || grid.qmin != -largest; }
QSCALE_HD bool may_exceed(const FloatGrid& grid, float largest) { return grid.largest != largest; }
QSCALE_HD bool may_exceed(const Codebook&, float) { return false; }

template <class V, class T, class Element, class Fast>
void fast_round_trips(const Tile& tile, const TileScales& scales, const FakeQuant<Element>& job, const Fast& fast) {
  using Floats = typename V::Floats;
  const float least = smallest_fast_scale(Fast::smallest(job.element));
  const bool exact = is_power_of_two(job.scaling.kind);  // then so is the reciprocal's product
  float reciprocal[kTileGroups];
  for (int64_t g = 0; g < kTileGroups; ++g) reciprocal[g] = 1.0f / scales.scale[g];
  for (int64_t row = 0; row < tile.rows; ++row) {
    const int64_t start = tile.start + row * tile.stride;
    const T* x = static_cast<const T*>(job.x) + start;
    T* y = static_cast<T*>(job.y) + start;
    for (int64_t g = 0; g < tile.count; ++g, x += tile.group, y += tile.group) {
      const int64_t n = tile.length(g);
      const float scale = scales.scale[g];
      const Floats factor = V::splat(scale), inverse = V::splat(reciprocal[g]);
      const auto finish = [&](Floats value, Floats v) {
        value = V::multiply(value, factor);
        return Fast::signed_zero ? V::with_sign_of(value, v) : value;
      };
      if (!(scale >= least && scale <= kLargestFastScale)) {
        round_trip(x, y, n, scale, 0.0f, job.element, 0u, 0u);
      } else if (exact) {
        transform<V>(x, y, n, [&](Floats v) { return finish(fast(V::multiply(v, inverse)), v); });
      } else {
        transform<V>(x, y, n, [&](Floats v) { return finish(fast(quotient<V>(v, factor, inverse)), v); });
      }
    }
  }
}

template <class V, class T, class Element>
void round_trips(const Tile& tile, const TileScales& scales, const FakeQuant<Element>& job) {
  if constexpr (V::has_fma) {
    // Under a scale of the caller, a NaN may stand among numbers.
    if (job.scale == nullptr && decltype(fast_for<V, true>(job.element))::serves(job.element)) {
      if (job.scaling.kind == ScaleKind::float32 && !may_exceed(job.element, job.scaling.largest)) {
        return fast_round_trips<V, T>(tile, scales, job, fast_for<V, false>(job.element));
      }
      return fast_round_trips<V, T>(tile, scales, job, fast_for<V, true>(job.element));
    }
  }
  for (int64_t row = 0; row < tile.rows; ++row) {
    const int64_t start = tile.start + row * tile.stride;
    for (int64_t g = 0, at = start; g < tile.count; at += tile.length(g), ++g) {
      round_trip(static_cast<const T*>(job.x) + at, static_cast<T*>(job.y) + at, tile.length(g), scales.scale[g],
                 scales.zero[g], job.element, static_cast<uint64_t>(at), job.seed);
    }
  }
}

}  // namespace
}  // namespace qscale::cpu
