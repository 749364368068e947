// Elements as codes, one byte each.
#pragma once

#include "numerics/codebook.h"
#include "numerics/float_quant.h"
#include "numerics/int_quant.h"

namespace qscale {

// A code of -1 is 255. There is no code for a NaN: it takes 0, and its group's scale says what it was.
QSCALE_HD uint8_t code_of(float quotient, float zero, const IntGrid& grid, uint32_t random) {
  const float code = held(raw_code(quotient, zero, grid, random), grid);
  return static_cast<uint8_t>(static_cast<int32_t>(is_nan(code) ? 0.0f : code));
}

// Sign, exponent, mantissa; two's complement for fixed point.
QSCALE_HD uint8_t code_of(float quotient, float, const FloatGrid& grid, uint32_t random) {
  const float value = round_to_grid(is_nan(quotient) ? 0.0f : quotient, grid, random);
  const uint32_t magnitude = magnitude_code(fabsf(value), grid);
  const bool negative = (bits_of(value) & 0x80000000u) != 0u;
  if (!has_negative_zero(grid)) return static_cast<uint8_t>(negative ? 0u - magnitude : magnitude);
  return static_cast<uint8_t>(magnitude | (negative ? sign_code(grid) : 0u));
}

QSCALE_HD uint8_t code_of(float quotient, float, const Codebook& table, uint32_t) {
  return static_cast<uint8_t>(codebook_index(quotient, table));
}

}  // namespace qscale
