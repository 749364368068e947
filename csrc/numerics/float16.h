// bfloat16 and IEEE half as bit patterns, converted to and from float32 with one rounding, ties to even.
#pragma once

#include "numerics/host_device.h"

namespace qscale {

struct BFloat16 {
  uint16_t bits;
};

struct Half {
  uint16_t bits;
};

QSCALE_HD float to_float(float value) { return value; }

QSCALE_HD float to_float(BFloat16 value) { return float_of(static_cast<uint32_t>(value.bits) << 16); }

QSCALE_HD float to_float(Half value) {
  const uint32_t sign = (value.bits & 0x8000u) << 16;
  const uint32_t magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return float_of(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  if (magnitude >= 0x400u) return float_of(sign | ((magnitude << 13) + (112u << 23)));
  return float_of(sign | bits_of(static_cast<float>(magnitude) * 0x1p-24f));
}

QSCALE_HD void from_float(float value, float& out) { out = value; }

QSCALE_HD void from_float(float value, BFloat16& out) {
  const uint32_t bits = bits_of(value);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;  // rounding up could carry a NaN into the sign
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  out.bits = static_cast<uint16_t>(is_nan ? 0x7fc0u : rounded);
}

QSCALE_HD void from_float(float value, Half& out) {
  const uint32_t bits = bits_of(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {  // 65520, halfway past the largest half
    half = 0x7c00u;
  } else if (magnitude >= 0x38800000u) {
    half = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  } else {  // adding 0.5 makes the hardware round to the spacing of subnormal halves, 2**-24
    half = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
  }
  out.bits = static_cast<uint16_t>(sign | half);
}

}  // namespace qscale
