// Small floating-point elements and their scales, one number at a time: the arithmetic that every backend repeats.
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

// The nearest magnitude of the grid, the sign kept. A tie goes to the even code, which for no mantissa bits at all is
// the even exponent field: biases are odd like float32's, so the low bit of the float32 pattern decides either way.
QSCALE_HD float round_to_grid(float value, const FloatGrid& grid) {
  const bool away = grid.rounding == Rounding::away;
  const uint32_t bits = bits_of(value) & 0x7fffffffu;
  const int dropped = 23 - grid.mantissa_bits;
  const uint32_t half = 1u << (dropped - 1);
  const uint32_t up = away ? half : half - 1u + (bits >> dropped & 1u);
  const float normal = float_of((bits + up) >> dropped << dropped);
  // Below the smallest normal the spacing is constant: adding `shifter`, whose last bit is worth one step, rounds.
  const float magnitude = float_of(bits);
  const float shifter = power_of_two(grid.min_exponent - grid.mantissa_bits + 23);
  const float step = power_of_two(grid.min_exponent - grid.mantissa_bits);
  float subnormal = (magnitude + shifter) - shifter;
  subnormal += away && magnitude - subnormal == 0.5f * step ? step : 0.0f;
  float rounded = magnitude < power_of_two(grid.min_exponent) ? subnormal : normal;
  rounded = rounded > grid.largest ? grid.largest : rounded;
  return is_nan(value) ? value : with_sign_of(rounded, value);
}

// How the scale of a group follows from its largest magnitude: absmax / largest, or a power of two (OCP MX).
enum class ScaleRule : int32_t { free = 0, floor = 1, ceil = 2, rceil = 3, even = 4 };

// NaN for a group that holds a NaN or an infinity. A scale that underflows divides by 1.
QSCALE_HD float free_scale(float absmax, const FloatGrid& grid) {
  const float scale = absmax / grid.largest;
  return !is_finite(absmax) ? quiet_nan() : scale == 0.0f ? 1.0f : scale;
}

QSCALE_HD int floor_log2(float positive) { return static_cast<int>(bits_of(positive) >> 23) - 127; }

// Of a subnormal number -127 or -126: what a scale can be, and no less.
QSCALE_HD int ceil_log2(float positive) {
  const uint32_t bits = bits_of(positive);
  const uint32_t mantissa = bits & 0x7fffffu;
  const bool more = bits < 0x800000u ? mantissa > 0x400000u : mantissa != 0u;
  return static_cast<int>(bits >> 23) - 127 + (more ? 1 : 0);
}

// The exponent of an E8M0 scale, -127 to 127, of a finite group; patterns of float32 give the logarithms exactly.
QSCALE_HD int mx_exponent(float absmax, const FloatGrid& grid, ScaleRule rule) {
  const int top = floor_log2(grid.largest);
  int exponent;
  if (rule == ScaleRule::rceil) {
    exponent = ceil_log2(absmax / grid.largest);
  } else if (rule == ScaleRule::ceil) {
    exponent = ceil_log2(absmax) - top;
  } else if (rule == ScaleRule::even) {
    // absmax rounded, halves up, to the bits that elements have beside it. A subnormal number's leading bit is in its
    // pattern, which puts the others one lower.
    const int below_top = top - (top > grid.min_exponent ? top : grid.min_exponent) + grid.mantissa_bits;
    const uint32_t bits = bits_of(absmax), half = (1u << (22 - below_top)) >> (bits < 0x800000u ? 1 : 0);
    exponent = static_cast<int>((bits + half) >> 23) - 127 - top;
  } else {
    exponent = floor_log2(absmax) - top;
  }
  return exponent < -127 ? -127 : exponent > 127 ? 127 : exponent;
}

// NVFP4: E2M1 elements under an E4M3 scale for each block, and `tensor_scale` for all of them, 1 where there is none.
struct Nvfp4 {
  float tensor_scale;
  Rounding rounding = Rounding::even;
};

constexpr FloatGrid kE4M3{3, -6, 448.0f, Rounding::even};

QSCALE_HD FloatGrid nvfp4_elements(const Nvfp4& format) { return FloatGrid{1, 0, 6.0f, format.rounding}; }

// So that the largest block scale is 448; 1 for a tensor of zeros, or one so small that it underflows.
QSCALE_HD float nvfp4_tensor_scale(float absmax) {
  const float scale = absmax / 2688.0f;
  return !is_finite(absmax) ? quiet_nan() : scale == 0.0f ? 1.0f : scale;
}

// 0 for a block that is too small beside the tensor: its elements become zeros.
QSCALE_HD float nvfp4_scale(float absmax, const Nvfp4& format) {
  const float scale = round_to_grid((absmax / 6.0f) / format.tensor_scale, kE4M3) * format.tensor_scale;
  return is_finite(absmax) ? scale : quiet_nan();
}

QSCALE_HD float float_round_trip(float x, float scale, const FloatGrid& grid) {
  return round_to_grid(x / scale, grid) * scale;
}

QSCALE_HD float nvfp4_round_trip(float x, float scale, const Nvfp4& format) {
  if (scale == 0.0f) return with_sign_of(0.0f, x);
  return float_round_trip(x, scale, nvfp4_elements(format));
}

}  // namespace qscale
