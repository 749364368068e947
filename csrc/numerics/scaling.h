// The scale of a group from its range: what absmax, or half the distance of the ends, stands for in units of it.
#pragma once

#include "numerics/float_quant.h"

namespace qscale {

// Unrounded; a power of two (OCP MX) by one of four rules; or rounded to a type that saturates.
enum class ScaleKind : int32_t { float32 = 0, floor, ceil, rceil, even, float16, bfloat16, e4m3 };

struct Scaling {
  ScaleKind kind;
  float largest;              // range / largest is the scale
  float tensor_scale = 1.0f;  // of the whole tensor, beside an E4M3 scale for each group
  int top = 0;                // powers of two: the exponent of `largest`,
  int below_top = 0;          // and the bits that elements have beside it
};

QSCALE_HD FloatGrid scale_grid(ScaleKind kind) {
  if (kind == ScaleKind::float16) return {10, -14, 65504.0f};
  if (kind == ScaleKind::bfloat16) return {7, -126, 0x1.fep127f};
  return {3, -6, 448.0f};
}

QSCALE_HD bool is_power_of_two(ScaleKind kind) { return kind >= ScaleKind::floor && kind <= ScaleKind::even; }

QSCALE_HD int floor_log2(float positive) { return static_cast<int>(bits_of(positive) >> 23) - 127; }

// Of a subnormal number -127 or -126: what a scale can be, and no less.
QSCALE_HD int ceil_log2(float positive) {
  const uint32_t bits = bits_of(positive);
  const uint32_t mantissa = bits & 0x7fffffu;
  const bool more = bits < 0x800000u ? mantissa > 0x400000u : mantissa != 0u;
  return static_cast<int>(bits >> 23) - 127 + (more ? 1 : 0);
}

// The exponent of an E8M0 scale, -127 to 127, of a finite group; patterns of float32 give the logarithms exactly.
QSCALE_HD int mx_exponent(float range, const Scaling& scaling) {
  // `even` rounds the range, halves up, to the bits that elements have beside its leading one. A subnormal number's
  // leading bit is in its pattern, which puts the others one lower.
  const uint32_t bits = bits_of(range), half = (1u << (22 - scaling.below_top)) >> (bits < 0x800000u ? 1 : 0);
  const int exponent = scaling.kind == ScaleKind::rceil  ? ceil_log2(range / scaling.largest)
                       : scaling.kind == ScaleKind::ceil ? ceil_log2(range) - scaling.top
                       : scaling.kind == ScaleKind::even ? static_cast<int>((bits + half) >> 23) - 127 - scaling.top
                                                         : floor_log2(range) - scaling.top;
  return exponent < -127 ? -127 : exponent > 127 ? 127 : exponent;
}

// Without the scale of the tensor. NaN for a group that holds a NaN or an infinity; 0 where it underflows, and then
// every element becomes a zero.
QSCALE_HD float group_scale(float range, const Scaling& scaling) {
  const float ratio = range / scaling.largest;
  const float scale = scaling.kind == ScaleKind::float32 ? ratio
                      : is_power_of_two(scaling.kind)
                          ? power_of_two(mx_exponent(range, scaling))
                          : round_to_grid(ratio / scaling.tensor_scale, scale_grid(scaling.kind));
  return is_finite(range) ? scale : quiet_nan();
}

QSCALE_HD float scale_of(float range, const Scaling& scaling) {
  return group_scale(range, scaling) * scaling.tensor_scale;
}

// What elements are divided by: over infinity every one is a zero.
QSCALE_HD float divisor_of(float scale) { return scale == 0.0f ? float_of(0x7f800000u) : scale; }

// So that the largest scale of a group is E4M3's largest; 1 for zeros, or where it underflows.
QSCALE_HD float tensor_scale_of(float absmax, float largest) {
  const float scale = absmax / (largest * 448.0f);
  return !is_finite(absmax) ? quiet_nan() : scale == 0.0f ? 1.0f : scale;
}

// Half the distance of the ends, which cannot overflow; where they are one, its magnitude, so that it can be met.
QSCALE_HD float half_range(float low, float high) {
  const float half = 0.5f * high - 0.5f * low;
  return half == 0.0f ? fabsf(low) : half;
}

}  // namespace qscale
