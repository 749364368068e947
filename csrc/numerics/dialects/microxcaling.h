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
  Logarithms floor_log2;  // in the input's dtype
  float half_step;        // of the elements from 1 to 2
  float most;             // magnitude whose logarithm is below 16
};

template <Rounding rounding>
QSCALE_HD Microxcaling<rounding> microxcaling(const Element& e, const Logarithms& floor_log2) {
  constexpr uint32_t field = 127 + 15;
  const float most = float_of(field << 23 | static_cast<uint32_t>(floor_log2.last[field]));
  return {e, floor_log2, power_of_two(-1 - e.mantissa_bits), most};
}

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
QSCALE_HD float with_binade(float value, float, float, T) {
  return value;
}
QSCALE_HD float with_binade(float value, float magnitude, float most, Half) {
  return magnitude > most ? quiet_nan() : value;
}

// floor(n + 1/2) of the steps n in a binade, or one less at a tie above an even number. The sum is rounded, so the last
// number below half a step becomes one. The library takes the binade of an element from a rounded logarithm, which may
// be one high: the element is then so near to the power of two that it is rounded there either way.
template <class T, Rounding rounding>
QSCALE_HD float round_trip(float x, const Factors& s, const Microxcaling<rounding>& rule) {
  const Element& e = rule.element;
  const float scaled = in<T>(x * s.before) + 0.0f;
  const float magnitude = fabsf(scaled), held = at_most(magnitude, e.largest);
  const float even = nearest_held(held, e), half_step = float_of(binade(held, e)) * rule.half_step;
  const float up = rounding == Rounding::away && held - even == half_step ? even + 2.0f * half_step : even;
  const float least = 2.0f * e.smallest_normal * rule.half_step;
  const float value = magnitude == least * (0.5f - 0.25f * epsilon(T{})) ? least : up;
  return with_sign_of(with_binade(value, magnitude, rule.most, T{}), scaled) * s.after;
}

}  // namespace qscale::dialects
