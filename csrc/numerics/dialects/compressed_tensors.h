// compressed-tensors 0.20.0, one group and one element at a time: every step in the input's dtype.
// qscale/kernels/dialects/compressed_tensors.py defines it.
#pragma once

#include "numerics/dialects/steps.h"

namespace qscale::dialects {

// Codes from -half to half - 1.
struct CompressedInt {
  using Reduced = float;
  float half;
};

struct CompressedAsymmetric {
  using Reduced = Ends;
  float half;
};

QSCALE_HD bool needs_ends(const CompressedAsymmetric&) { return true; }

template <class T>
QSCALE_HD float not_zero(float scale) {
  return scale == 0.0f ? epsilon(T{}) : scale;
}

template <class T>
QSCALE_HD Divisor scale_of(float absmax, const CompressedInt& rule) {
  return {not_zero<T>(in<T>(absmax / (rule.half - 0.5f)))};
}

// A zero point is added even where it is zero, which makes a -0 into +0; small negative values still end as -0.
template <class T>
QSCALE_HD float round_trip(float x, const Divisor& s, const CompressedInt& rule) {
  return rintf(between(in<T>(x / s.scale) + 0.0f, -rule.half, rule.half - 1.0f)) * s.scale;
}

struct CompressedScale {
  float scale, zero_point;
};

template <class T>
QSCALE_HD CompressedScale scale_of(Ends ends, const CompressedAsymmetric& rule) {
  const float scale = not_zero<T>(in<T>(in<T>(ends.high - ends.low) / (2.0f * rule.half - 1.0f)));
  const float zero_point = in<T>(-rule.half - in<T>(ends.low / scale));
  const float code = rintf(between(zero_point, -rule.half, rule.half - 1.0f));
  // As int8 a NaN is 0, and so is -0.
  const bool is_code = code == code && (ends.low != 0.0f || ends.high != 0.0f);
  return {scale, is_code ? code + 0.0f : 0.0f};
}

template <class T>
QSCALE_HD float round_trip(float x, const CompressedScale& s, const CompressedAsymmetric& rule) {
  const float code = rintf(between(in<T>(in<T>(x / s.scale) + s.zero_point), -rule.half, rule.half - 1.0f));
  return (code - s.zero_point) * s.scale;
}

struct CompressedFloat8 {
  using Reduced = float;
  Element element;
};

template <class T>
QSCALE_HD Divisor scale_of(float absmax, const CompressedFloat8& rule) {
  return {not_zero<T>(in<T>(absmax / rule.element.largest))};
}

template <class T>
QSCALE_HD float round_trip(float x, const Divisor& s, const CompressedFloat8& rule) {
  return nearest(in<T>(x / s.scale) + 0.0f, rule.element) * s.scale;
}

// `half` rounds the largest magnitude, halves up, to few mantissa bits.
struct CompressedMx {
  using Reduced = float;
  Element element;
  uint32_t half;
};

// The mantissa bits of the element, but for FP8 the one of FP4.
QSCALE_HD CompressedMx compressed_mx(const Element& e) {
  return {e, 1u << (22 - (e.largest == 448.0f ? 1 : e.mantissa_bits))};
}

// The exponent field of T alone, which of a subnormal number is that of 0. There float32 has a leading bit where T has
// none: one is lent, and taken back.
template <class T>
QSCALE_HD float power_of_field(float absmax, uint32_t half) {
  const float lent = absmax < smallest_normal(T{}) ? smallest_normal(T{}) : 0.0f;
  return in<T>(float_of((bits_of(absmax + lent) + half) & 0x7f800000u) - lent);
}

// In float16 the power of two below may be infinite, and the scale then is; or the scale 0, which becomes 1.
template <class T>
QSCALE_HD Factors scale_of(float absmax, const CompressedMx& rule) {
  const float below = power_of_field<T>(absmax, rule.half);
  const int exponent = static_cast<int>(bits_of(below) >> 23) - 127 - rule.element.largest_exponent;
  const float power = in<T>(power_of_two(exponent < -127 ? -127 : exponent));
  const float scale = below == infinity() ? below : power == 0.0f ? 1.0f : power;
  return {1.0f / scale, absmax == absmax ? scale : quiet_nan()};
}

template <class T>
QSCALE_HD float round_trip(float x, const Factors& s, const CompressedMx& rule) {
  return nearest(in<T>(x * s.before) + 0.0f, rule.element) * s.after;
}

// `global_scale` multiplies the block scales before they are rounded.
struct CompressedNvfp4 {
  using Reduced = float;
  float global_scale;
};

template <class T>
QSCALE_HD CompressedNvfp4 compressed_nvfp4(float tensor_absmax) {
  const float scale = in<T>(in<T>(1.0f / tensor_absmax) * 2688.0f);
  return {is_finite(scale) ? scale : 1.0f};
}

template <class T>
QSCALE_HD Divisor scale_of(float absmax, const CompressedNvfp4& rule) {
  const float block = nearest(rule.global_scale * in<T>(absmax / 6.0f), e4m3());
  return {(block == 0.0f ? 0.125f : block) / rule.global_scale};
}

// In float32: the block scale is.
template <class T>
QSCALE_HD float round_trip(float x, const Divisor& s, const CompressedNvfp4&) {
  return nearest(x / s.scale + 0.0f, e2m1()) * s.scale;
}

}  // namespace qscale::dialects
