// One group in and out of each format.
#pragma once

#include "cpu/group.h"

namespace qscale::cpu {
namespace {

template <class V, class T>
void round_trip(const T* x, T* y, int64_t n, float absmax, const IntGrid& grid) {
  using Floats = typename V::Floats;
  const float scale = int_scale(absmax, grid);
  const Floats factor = V::splat(scale), low = V::splat(grid.qmin), high = V::splat(grid.qmax);
  const float smallest_fast = smallest_fast_scale(-2);  // below 1/4 every code is zero
  if (grid.rounding == Rounding::even) {
    transform_quotients<V>(x, y, n, scale, smallest_fast, [&](Floats q) {
      return V::multiply(V::clamp(V::round_even(q), low, high), factor);
    });
  } else {
    transform_quotients<V>(x, y, n, scale, smallest_fast, [&](Floats q) {
      return V::multiply(V::map(q, [&](float v) { return int_code(v, grid); }), factor);
    });
  }
}

// Round to a grid with a mantissa, ties to even, for magnitudes up to 2**100: the float32 number 1.5 * 2**(23-M) * p,
// where p is the power of two at or below the value, has a last bit worth one step of the grid there.
template <class V>
struct GridRounding {
  using Floats = typename V::Floats;
  Floats low, high, smallest_normal, shift;

  explicit GridRounding(const FloatGrid& grid)
      : low(V::splat(-grid.largest)),
        high(V::splat(grid.largest)),
        smallest_normal(V::splat(power_of_two(grid.min_exponent))),
        shift(V::splat(1.5f * power_of_two(23 - grid.mantissa_bits))) {}

  Floats operator()(Floats value) const {
    const Floats v = V::clamp(value, low, high);
    const Floats p = V::larger(V::power_below(v), smallest_normal);
    return V::with_sign_of(V::negative_multiply_add(p, shift, V::multiply_add(p, shift, v)), value);
  }
};

// Calls `use` with the fastest function that rounds to the grid.
template <class V, class Use>
void with_rounding(const FloatGrid& grid, Use use) {
  if constexpr (V::has_fma) {
    if (grid.rounding == Rounding::even && grid.mantissa_bits > 0 && grid.largest <= 0x1p100f) {
      use(GridRounding<V>(grid));
      return;
    }
  }
  use([&](typename V::Floats v) { return V::map(v, [&](float value) { return round_to_grid(value, grid); }); });
}

// Quotients below a quarter of a step end as zero.
QSCALE_HD float smallest_fast_scale(const FloatGrid& grid) {
  return smallest_fast_scale(grid.min_exponent - grid.mantissa_bits - 2);
}

template <class V, class T>
void round_trip(const T* x, T* y, int64_t n, float absmax, const ScaledFloat& format) {
  using Floats = typename V::Floats;
  const FloatGrid& grid = format.grid;
  with_rounding<V>(grid, [&](const auto& rounded) {
    if (format.rule == ScaleRule::free) {
      const float scale = free_scale(absmax, grid);
      const Floats factor = V::splat(scale);
      transform_quotients<V>(x, y, n, scale, smallest_fast_scale(grid),
                             [&](Floats q) { return V::multiply(rounded(q), factor); });
    } else {
      // Multiplying by the inverse of a power of two is the division.
      const int exponent = mx_exponent(absmax, grid, format.rule);
      const Floats inverse = V::splat(power_of_two(-exponent));
      const Floats factor = V::splat(is_finite(absmax) ? power_of_two(exponent) : quiet_nan());
      transform<V>(x, y, n, [&](Floats v) { return V::multiply(rounded(V::multiply(v, inverse)), factor); });
    }
  });
}

template <class V, class T>
void round_trip(const T* x, T* y, int64_t n, float absmax, const Nvfp4& format) {
  using Floats = typename V::Floats;
  const FloatGrid grid = nvfp4_elements(format);
  const float scale = nvfp4_scale(absmax, format);
  const Floats factor = V::splat(scale);
  // Over infinity every element is a zero with its sign.
  const float divisor = scale == 0.0f ? float_of(0x7f800000u) : scale;
  with_rounding<V>(grid, [&](const auto& rounded) {
    transform_quotients<V>(x, y, n, divisor, smallest_fast_scale(grid),
                           [&](Floats q) { return V::multiply(rounded(q), factor); });
  });
}

template <class V, class T>
void round_trip(const T* x, T* y, int64_t n, float absmax, const Codebook& table) {
  using Floats = typename V::Floats;
  const float scale = codebook_scale(absmax);
  const Floats factor = V::splat(scale);
  const auto book = V::prepare(table);
  const float smallest_fast = smallest_fast_scale(-10);  // no midpoint but zero is closer to zero
  transform_quotients<V>(x, y, n, scale, smallest_fast, [&](Floats q) {
    return V::multiply(V::with_sign_of(V::nearest(q, book), q), factor);
  });
}

}  // namespace
}  // namespace qscale::cpu
