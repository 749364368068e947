// IEEE half. NaNs are the device's: 0x7fff made from a float, 0x7fffffff made from a half.
#pragma once

#include "cuda_runtime.h"

struct alignas(2) __half {
  unsigned short bits;
  __half() = default;
  __half(float value);
  explicit operator float() const;  // so that sums of two, which the device rounds, do not compile
};
struct alignas(4) __half2 {
  __half x, y;
  __half2() = default;
  __half2(__half low, __half high) : x(low), y(high) {}
};
using half = __half;
using half2 = __half2;

inline unsigned short __half_as_ushort(__half v) { return v.bits; }
inline short __half_as_short(__half v) { return static_cast<short>(v.bits); }
inline __half __ushort_as_half(unsigned short bits) {
  __half v;
  v.bits = bits;
  return v;
}
inline __half __short_as_half(short bits) { return __ushort_as_half(static_cast<unsigned short>(bits)); }

inline float __half2float(__half v) {
  const unsigned sign = (v.bits & 0x8000u) << 16, magnitude = v.bits & 0x7fffu;
  if (magnitude > 0x7c00u) return __uint_as_float(0x7fffffffu);
  if (magnitude == 0x7c00u) return __uint_as_float(sign | 0x7f800000u);
  const int exponent = static_cast<int>(magnitude >> 10);
  const float significand = static_cast<float>(exponent == 0 ? magnitude : 0x400u | (magnitude & 0x3ffu));
  return copysignf(ldexpf(significand, (exponent == 0 ? 1 : exponent) - 25), __uint_as_float(sign | 0x3f800000u));
}

inline __half __float2half_rn(float value) {
  const unsigned sign = __float_as_uint(value) >> 16 & 0x8000u;
  const float magnitude = fabsf(value);
  if (std::isnan(value)) return __ushort_as_half(0x7fff);
  if (magnitude >= 65520.0f) return __ushort_as_half(static_cast<unsigned short>(sign | 0x7c00u));
  const int exponent = magnitude < 0x1p-14f ? -14 : ilogbf(magnitude);
  const int steps = static_cast<int>(rintf(ldexpf(magnitude, 10 - exponent)));  // of the binade: 1024 to 2048
  return __ushort_as_half(static_cast<unsigned short>(sign + static_cast<unsigned>((exponent + 14) * 1024 + steps)));
}
inline __half __float2half(float value) { return __float2half_rn(value); }

inline __half::__half(float value) : bits(__float2half_rn(value).bits) {}
inline __half::operator float() const { return __half2float(*this); }

inline __half2 __halves2half2(__half low, __half high) { return {low, high}; }
inline __half2 __floats2half2_rn(float low, float high) { return {__float2half_rn(low), __float2half_rn(high)}; }
inline __half2 __float22half2_rn(float2 v) { return __floats2half2_rn(v.x, v.y); }
inline __half2 __float2half2_rn(float v) { return __floats2half2_rn(v, v); }
inline __half2 __half2half2(__half v) { return {v, v}; }
inline float2 __half22float2(__half2 v) { return {__half2float(v.x), __half2float(v.y)}; }
inline float __low2float(__half2 v) { return __half2float(v.x); }
inline float __high2float(__half2 v) { return __half2float(v.y); }
inline __half __low2half(__half2 v) { return v.x; }
inline __half __high2half(__half2 v) { return v.y; }
