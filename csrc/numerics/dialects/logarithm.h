// Exponents by the float32 log2 of torch, which beside a power of two may round onto it.
#pragma once

#include "numerics/rounding.h"

namespace qscale::dialects {

// The last mantissa of each exponent field whose rounded logarithm stays in its binade. Python makes the tables with
// torch.log2 (qscale/kernels/dialects/logarithms.py). Rules hold theirs by value, and so are whole on any device.
struct Logarithms {
  int32_t last[256];
};

// The exponent of a magnitude by its rounded logarithm: one more than that of its pattern where the mantissa is
// past the last one that stays. Of numbers below 2**-127 -127, of infinity 128 or 129.
QSCALE_HD int exponent_by_log2(float value, const Logarithms& table) {
  const uint32_t bits = bits_of(value) & 0x7fffffffu;
  const uint32_t field = bits >> 23;
  return static_cast<int>(field) - 127 + (static_cast<int32_t>(bits & 0x7fffffu) > table.last[field] ? 1 : 0);
}

}  // namespace qscale::dialects
