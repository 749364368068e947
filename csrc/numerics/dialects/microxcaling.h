// microxcaling 7bc4195, one block and one element at a time: every step in the input's dtype.
// qscale/kernels/dialects/microxcaling.py defines it.
#pragma once

#include "numerics/dialects/logarithm.h"
#include "numerics/dialects/steps.h"

namespace qscale::dialects {

// `away` is the library's default.
template <Rounding rounding>
struct Microxcaling {
  using Reduced = float;
  Element element;
  const int32_t* floor_log2;  // in the input's dtype
};

// In float16 a scale may be 0 or infinite; every element is then NaN.
template <class T, Rounding rounding>
QSCALE_HD Factors scale_of(float absmax, const Microxcaling<rounding>& rule) {
  const int exponent = exponent_by_log2(absmax, rule.floor_log2) - rule.element.largest_exponent;
  const Factors scale = e8m0(exponent);
  const float factor = in<T>(scale.after);
  const bool defined = is_finite(absmax) && exponent <= 127 && is_finite(factor) && factor != 0.0f;
  return {scale.before, defined ? factor : quiet_nan()};
}

// A magnitude of float16 whose logarithm is rounded up to 16 has no binade there: 2**16 is infinite, the result NaN.
template <class T>
QSCALE_HD bool has_binade(float, const int32_t*, T) {
  return true;
}
QSCALE_HD bool has_binade(float magnitude, const int32_t* floor_log2, Half) {
  constexpr uint32_t top = 127 + 15;
  return bits_of(magnitude) <= (top << 23 | static_cast<uint32_t>(floor_log2[top]));
}

// floor(n + 1/2) of the steps n in a binade; the sum is rounded, so the last number below a half becomes 1. The library
// takes the binade of an element from a rounded logarithm, which may be one high: the element is then so near to the
// power of two that it is rounded there either way.
template <class T, Rounding rounding>
QSCALE_HD float round_trip(float x, const Factors& s, const Microxcaling<rounding>& rule) {
  const Element& e = rule.element;
  const float steps = power_of_two(e.mantissa_bits), step = power_of_two(-e.mantissa_bits);
  const float scaled = in<T>(x * s.before);
  const float magnitude = fabsf(scaled);
  const float power = binade(magnitude, e);
  const float n = magnitude * float_of(0x7f000000u - bits_of(power)) * steps;
  const float up = floorf(in<T>(n + 0.5f)), below_a_half = 0.5f * (n - 0.5f);
  const bool tie_to_lower = rounding == Rounding::even && below_a_half == floorf(below_a_half);
  const float value = at_most((tie_to_lower ? up - 1.0f : up) * step * power, e.largest);
  const float defined = has_binade(magnitude, rule.floor_log2, T{}) ? value : quiet_nan();
  return (scaled < 0.0f ? -defined : defined) * s.after;
}

}  // namespace qscale::dialects
