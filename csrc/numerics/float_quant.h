// Small floating-point elements, one number at a time: the arithmetic that every backend repeats.
#pragma once

#include "numerics/rounding.h"

namespace qscale {

// Magnitudes with `mantissa_bits` after the leading 1, subnormals below 2**min_exponent, up to `largest`, which is one
// of them. Fixed point is all subnormals: its largest is below 2**min_exponent.
struct FloatGrid {
  int mantissa_bits;
  int min_exponent;
  float largest;
  Rounding rounding = Rounding::even;
};

// Two's complement has one zero; sign and magnitude have two.
QSCALE_HD bool has_negative_zero(const FloatGrid& grid) { return grid.largest >= power_of_two(grid.min_exponent); }

// A magnitude below the smallest normal, where the spacing is constant. Two products, as 2**(M - min_exponent) may be
// out of range; a subnormal float32 times a power of two is exact as long as it grows, so the one that cannot be below 1
// comes first.
QSCALE_HD float round_subnormal(float magnitude, const FloatGrid& grid, uint32_t random) {
  const float up = power_of_two(-grid.min_exponent), more = power_of_two(grid.mantissa_bits);
  const float step = power_of_two(grid.min_exponent - grid.mantissa_bits);
  return round_magnitude(magnitude * more * up, grid.rounding, random) * step;
}

// Any other, by its pattern: the part that is dropped against a half, or against a random word.
QSCALE_HD float round_normal(float magnitude, const FloatGrid& grid, uint32_t random) {
  const uint32_t bits = bits_of(magnitude);
  const int dropped = 23 - grid.mantissa_bits;
  const uint32_t unit = 1u << dropped, half = unit >> 1, part = bits & (unit - 1u);
  const uint32_t up = grid.rounding == Rounding::away ? half : half - 1u + (bits >> dropped & 1u);
  const uint32_t drawn = bits + (part << (24 - dropped) > random >> 8 ? unit : 0u);
  return float_of((grid.rounding == Rounding::stochastic ? drawn : bits + up) & ~(unit - 1u));
}

// The nearest magnitude of the grid, or one of its neighbours, the sign kept. A tie goes to the even code, which for no
// mantissa bits at all is the even exponent field: biases are odd like float32's, so the low bit of the float32 pattern
// decides either way. Where the smallest normal is float32's own, its subnormals are in the pattern already.
QSCALE_HD float round_to_grid(float value, const FloatGrid& grid, uint32_t random = 0) {
  const float magnitude = fabsf(value);
  const float normal = round_normal(magnitude, grid, random);
  const bool below = grid.min_exponent > -126 && magnitude < power_of_two(grid.min_exponent);
  float rounded = below ? round_subnormal(magnitude, grid, random) : normal;
  rounded = rounded > grid.largest ? grid.largest : rounded;
  return is_nan(value) ? value : with_sign_of(rounded, value);
}

// In units of the scale.
QSCALE_HD float value_of(float quotient, float /*zero*/, const FloatGrid& grid, uint32_t random) {
  const float value = round_to_grid(quotient, grid, random);
  return has_negative_zero(grid) ? value : value + 0.0f;
}

// Exponent field and mantissa field of a magnitude of the grid: codes count the magnitudes upwards.
QSCALE_HD uint32_t magnitude_code(float magnitude, const FloatGrid& grid) {
  const bool below = magnitude < power_of_two(grid.min_exponent);
  const float steps = (below ? magnitude : 0.0f) * power_of_two(-grid.min_exponent) * power_of_two(grid.mantissa_bits);
  const uint32_t fields_below = static_cast<uint32_t>(grid.min_exponent + 126) << grid.mantissa_bits;
  const uint32_t normal = (bits_of(magnitude) >> (23 - grid.mantissa_bits)) - fields_below;
  return below ? static_cast<uint32_t>(static_cast<int32_t>(steps)) : normal;
}

// The bit above the codes of magnitudes.
QSCALE_HD uint32_t sign_code(const FloatGrid& grid) {
  const float most = static_cast<float>(static_cast<int32_t>(magnitude_code(grid.largest, grid)));
  return 1u << ((bits_of(most) >> 23) - 126u);
}

// Only integers have a zero point.
QSCALE_HD bool is_two_ended(const FloatGrid&) { return false; }
QSCALE_HD float zero_point_in_use(float, const FloatGrid&) { return 0.0f; }

QSCALE_HD bool is_stochastic(const FloatGrid& grid) { return grid.rounding == Rounding::stochastic; }

}  // namespace qscale
