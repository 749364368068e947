// Where a tie goes. The numbers are those of qscale/formats/calls.py.
#pragma once

#include "numerics/host_device.h"

namespace qscale {

enum class Rounding : int32_t { even = 0, away = 1 };

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

}  // namespace qscale
