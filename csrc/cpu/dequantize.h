// Codes back to values: a table, then the scale of each group.
#pragma once

#include "cpu/chunk.h"
#include "cpu/codebook_lanes.h"

namespace qscale::cpu {
namespace {

// The codes of elements of a row from `column` on, a byte each.
[[maybe_unused]] static void unpack(const uint8_t* row, int64_t column, int64_t n, uint8_t* codes) {
  const uint8_t* from = row + column / 2;
  int64_t i = column % 2;
  if (i > 0) codes[0] = static_cast<uint8_t>(*from++ >> 4);
  for (; i + 2 <= n; i += 2, ++from) {
    codes[i] = *from & 15;
    codes[i + 1] = static_cast<uint8_t>(*from >> 4);
  }
  if (i < n) codes[i] = *from & 15;
}

// Of kLanes codes.
#if defined(__AVX512F__)
QSCALE_HD void look_up(const uint8_t* codes, const float* table, bool few, float* v) {
  const __m512i places = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
  _mm512_storeu_ps(v, few ? _mm512_permutexvar_ps(places, _mm512_loadu_ps(table))
                          : _mm512_i32gather_ps(places, table, sizeof(float)));
}
#elif defined(__AVX2__)
QSCALE_HD void look_up(const uint8_t* codes, const float* table, bool few, float* v) {
  for (int64_t half = 0; half < kLanes; half += 8) {
    const __m256i places = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + half)));
    _mm256_storeu_ps(v + half, few ? values_at(places, table) : _mm256_i32gather_ps(table, places, sizeof(float)));
  }
}
#else
QSCALE_HD void look_up(const uint8_t* codes, const float* table, bool, float* v) {
  for (int64_t i = 0; i < kLanes; ++i) v[i] = table[codes[i]];
}
#endif

[[maybe_unused]] static void look_up_all(const uint8_t* codes, const Dequantize& job, float* v, int64_t n) {
  if (job.packed) {
    for (int64_t i = 0; i < n; i += kLanes) look_up(codes + i, job.table, true, v + i);
  } else {
    for (int64_t i = 0; i < n; i += kLanes) look_up(codes + i, job.table, false, v + i);
  }
}

template <class V, class T>
void dequantize(const Dequantize& shared, int64_t first, int64_t last) {
  const Dequantize job = shared;  // a copy: writes through y cannot change it
  const int64_t axis = job.layout.axis;
  const bool has_zeros = job.zero_point != nullptr;
  Chunk c;
  uint8_t codes[kChunk] = {};
  for_tiles(job.layout, first, last, [&](const Tile& tile) {
    const int64_t n = (tile.count - 1) * tile.group + tile.last, row = tile.start / axis, column = tile.start - row * axis;
    const float* scale = job.scale + tile.number;
    const float* zero = has_zeros ? job.zero_point + tile.number : scale;
    for (int64_t r = 0; r < tile.rows; ++r) {
      const uint8_t* from = job.codes + (row + r) * code_bytes(axis, job.packed);
      T* y = static_cast<T*>(job.y) + (row + r) * axis + column;
      for (int64_t start = 0; start < n; start += kChunk) {
        const int64_t some = n - start < kChunk ? n - start : kChunk;
        if (job.packed) {
          unpack(from, column + start, some, codes);
        } else {
          memcpy(codes, from + column + start, static_cast<size_t>(some));
        }
        look_up_all(codes, job, c.x, some);
        spread(c, start, some, tile.group, scale, zero);
        if (has_zeros) {
          for (int64_t i = 0; i < some; ++i) c.x[i] = (c.x[i] - c.zero[i]) + 0.0f;
        }
        for (int64_t i = 0; i < some; ++i) c.x[i] *= c.scale[i];
        store<V>(c, y + start, some);
      }
    }
  });
}

}  // namespace
}  // namespace qscale::cpu
