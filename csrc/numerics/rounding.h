// Where a number between two others goes. The numbers are those of qscale/formats/calls.py.
#pragma once

#include <cmath>

#include "numerics/host_device.h"

namespace qscale {

// Halfway to the even code or to the larger magnitude; or up with a probability that is the way gone.
enum class Rounding : int32_t { even = 0, away = 1, stochastic = 2 };

// 2**exponent for exponents from -149, exactly.
QSCALE_HD float power_of_two(int exponent) {
  return exponent >= -126 ? float_of(static_cast<uint32_t>(exponent + 127) << 23) : float_of(1u << (exponent + 149));
}

QSCALE_HD float quiet_nan() { return float_of(0x7fc00000u); }

QSCALE_HD bool is_finite(float value) { return (bits_of(value) & 0x7f800000u) != 0x7f800000u; }

QSCALE_HD bool is_nan(float value) { return (bits_of(value) & 0x7fffffffu) > 0x7f800000u; }

QSCALE_HD float with_sign_of(float magnitude, float sign) {
  return float_of((bits_of(magnitude) & 0x7fffffffu) | (bits_of(sign) & 0x80000000u));
}

// A random word as a number from 0 to 1, 1 left out: 24 bits of it, which float32 holds exactly.
QSCALE_HD float unit_of(uint32_t random) { return static_cast<float>(random >> 8) * 0x1p-24f; }

// A magnitude to an integer. What is beyond `below` is exact, so the comparisons are those of real numbers.
QSCALE_HD float round_magnitude(float magnitude, Rounding rounding, uint32_t random) {
  const float below = truncf(magnitude), beyond = magnitude - below;
  const float even = rintf(magnitude);
  const bool up = rounding == Rounding::away ? beyond >= 0.5f : beyond > unit_of(random);
  return rounding == Rounding::even ? even : below + (up ? 1.0f : 0.0f);
}

QSCALE_HD float round_to_integer(float value, Rounding rounding, uint32_t random) {
  return with_sign_of(round_magnitude(fabsf(value), rounding, random), value);
}

}  // namespace qscale
