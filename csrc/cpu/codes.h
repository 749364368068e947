// Elements as codes, one byte each.
#pragma once

#include "cpu/random.h"
#include "cpu/scales.h"
#include "numerics/codes.h"

namespace qscale::cpu {
namespace {

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
