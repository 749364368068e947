// Elements as codes: a byte each, or two to a byte.
#pragma once

#include "cpu/chunk.h"
#include "cpu/codebook_lanes.h"
#include "cpu/random.h"
#include "cpu/scales.h"
#include "numerics/codes.h"

namespace qscale::cpu {
namespace {

template <class Element>
[[gnu::noinline]] void codes_of(const Chunk& c, int64_t n, const Element& any, const uint32_t* random, uint8_t* codes) {
  with_rounding(any, [&](const Element& element) __attribute__((always_inline)) {
    for (int64_t i = 0; i < n; ++i) {
      const float quotient = c.x[i] / divisor_of(c.scale[i]);
      codes[i] = code_of(quotient, c.zero[i], element, is_stochastic(element) ? random[i] : 0u);
    }
  });
}

[[gnu::noinline, maybe_unused]] static void codes_of(Chunk& c, int64_t n, const Codebook& book, const uint32_t*,
                                                     uint8_t* codes) {
  for (int64_t i = 0; i < n; ++i) c.x[i] /= divisor_of(c.scale[i]);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) places_of(c.x + i, book, codes + i);
  for (; i < n; ++i) codes[i] = code_of(c.x[i], 0.0f, book, 0u);
}

// Codes of elements of a row from `column` on. A byte that an odd first one shares has been begun already.
[[maybe_unused]] static void pack(const uint8_t* codes, int64_t n, int64_t column, uint8_t* row) {
  uint8_t* to = row + column / 2;
  int64_t i = column % 2;
  if (i > 0) *to++ |= static_cast<uint8_t>(codes[0] << 4);
  for (; i + 2 <= n; i += 2) *to++ = static_cast<uint8_t>((codes[i] & 15) | codes[i + 1] << 4);
  if (i < n) *to = codes[i] & 15;
}

template <class V, class T, class Element>
void codes(const FakeQuant<Element>& shared, int64_t first, int64_t last) {
  const FakeQuant<Element> job = shared;
  const int64_t axis = job.layout.axis;
  Chunk c;
  RandomChunk random;
  for_tiles(job.layout, first, last, [&](const Tile& tile) {
    TileScales scales;
    float extent[kTileGroups];
    scales_of<V, T>(job, tile, scales, extent);
    const int64_t n = (tile.count - 1) * tile.group + tile.last, row = tile.start / axis, column = tile.start - row * axis;
    for (int64_t r = 0; r < tile.rows; ++r) {
      const T* x = static_cast<const T*>(job.x) + (row + r) * axis + column;
      uint8_t* y = static_cast<uint8_t*>(job.y) + (row + r) * code_bytes(axis, job.packed);
      for (int64_t start = 0; start < n; start += kChunk) {
        const int64_t some = n - start < kChunk ? n - start : kChunk;
        spread(c, start, some, tile.group, scales.scale, scales.zero);
        load<V>(c, x + start, some);
        const uint64_t index = static_cast<uint64_t>((row + r) * axis + column + start);
        if (is_stochastic(job.element)) draw(index, some, job.seed, random);
        uint8_t found[kChunk];
        codes_of(c, some, job.element, random.first, job.packed ? found : y + column + start);
        if (job.packed) pack(found, some, column + start, y);
      }
    }
  });
}

}  // namespace
}  // namespace qscale::cpu
