// Elements as codes, one byte each.
#pragma once

#include "cpu/random.h"
#include "cpu/scales.h"

namespace qscale::cpu {
namespace {

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

template <class T, class Element>
void codes(const FakeQuant<Element>& job, int64_t first, int64_t last) {
  const T* x = static_cast<const T*>(job.x);
  uint8_t* y = static_cast<uint8_t*>(job.y);
  for_tiles(job.layout, first, last, [&](const Tile& tile) {
    for (int64_t g = 0; g < tile.count; ++g) {
      const float divisor = divisor_of(job.scale[tile.number + g]);
      const float zero =
          job.zero_point == nullptr ? 0.0f : zero_point_in_use(job.zero_point[tile.number + g], job.element);
      for (int64_t row = 0; row < tile.rows; ++row) {
        const int64_t start = tile.start + g * tile.group + row * tile.stride;
        for (int64_t i = start; i < start + tile.length(g); ++i) {
          const uint32_t random = is_stochastic(job.element) ? random_word(static_cast<uint64_t>(i), job.seed) : 0u;
          y[i] = code_of(to_float(x[i]) / divisor, zero, job.element, random);
        }
      }
    }
  });
}

}  // namespace
}  // namespace qscale::cpu
