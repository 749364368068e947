// Groups a tile at a time, and what the elements of a group span. V is one of vec_plain.h, vec_avx2.h, vec_avx512.h.
#pragma once

#include <type_traits>

#include "cpu/kernels.h"
#include "numerics/ends.h"
#include "numerics/float16.h"

namespace qscale::cpu {
namespace {

// Scales are computed for as many groups at once, so that one does not wait for the other.
constexpr int64_t kTileGroups = 16;
// The elements of a tile are read twice: they should stay in the first cache.
constexpr int64_t kTileElements = 4096;
// Options that have no vector code of their own go through a buffer of this many floats.
constexpr int64_t kChunk = 256;

// Neighbouring groups of a row, or of a band of rows.
struct Tile {
  int64_t number;  // of the first group
  int64_t count;
  int64_t start;   // the first element
  int64_t group;
  int64_t last;    // elements of the last group
  int64_t rows;
  int64_t stride;  // elements from a row to the next

  int64_t length(int64_t g) const { return g + 1 < count ? group : last; }
};

template <class Use>
void for_tiles(const Layout& layout, int64_t first, int64_t last, Use use) {
  const int64_t per_row = layout.groups_per_row(), bands = layout.bands_per_matrix();
  const int64_t fit = kTileElements / layout.group, most = fit < 1 ? 1 : fit < kTileGroups ? fit : kTileGroups;
  for (int64_t number = first; number < last;) {
    const int64_t band = number / per_row, place = number - band * per_row;
    const int64_t matrix = band / bands, row = (band - matrix * bands) * layout.block_rows;
    int64_t count = per_row - place < last - number ? per_row - place : last - number;
    count = count < most ? count : most;
    const int64_t rows_left = layout.matrix_rows - row, start = place * layout.group;
    const int64_t left = layout.axis - start - (count - 1) * layout.group;
    use(Tile{number, count, (matrix * layout.matrix_rows + row) * layout.axis + start, layout.group,
             left < layout.group ? left : layout.group,
             rows_left < layout.block_rows ? rows_left : layout.block_rows, layout.axis});
    number += count;
  }
}

// Magnitudes are compared as integers: their order is that of the floats, with NaN above infinity, so a NaN stays.
// 16-bit elements are compared before they are widened, twice as many at a time.
template <class V, class T>
[[gnu::always_inline]] inline typename V::Bits max_magnitude(typename V::Bits seen, const T* x, int64_t n) {
  constexpr int64_t step = V::bytes / static_cast<int64_t>(sizeof(T));
  int64_t i = 0;
  for (; i + step <= n; i += step) seen = V::max_magnitude(seen, x + i);
  return i < n ? V::max_magnitude_first(seen, x + i, n - i) : seen;
}

// Groups of the sizes in use are whole vectors: calls `use` with how many, known to the compiler, for a tile that is full
// of them; 0 stands for half a vector, and -1 for all other tiles.
template <class V, class T, class Use>
[[gnu::always_inline]] inline void with_vectors(const Tile& tile, Use use) {
  constexpr int64_t step = V::bytes / static_cast<int64_t>(sizeof(T));
  const bool full = tile.count == kTileGroups && tile.last == tile.group;
  if (full && tile.group == 2 * step) return use(std::integral_constant<int, 2>());
  if (full && tile.group == step) return use(std::integral_constant<int, 1>());
  if (full && tile.group == 4 * step) return use(std::integral_constant<int, 4>());
  if (full && tile.group == 8 * step) return use(std::integral_constant<int, 8>());
  if (full && 2 * tile.group == step) return use(std::integral_constant<int, 0>());
  use(std::integral_constant<int, -1>());
}

// The largest magnitude of each group of a tile.
template <class V, class T>
void absmaxes(const T* x, const Tile& tile, float* absmax) {
  constexpr int64_t step = V::bytes / static_cast<int64_t>(sizeof(T));
  typename V::Bits seen[kTileGroups];
  with_vectors<V, T>(tile, [&](auto vectors) __attribute__((always_inline)) {
    if constexpr (vectors < 0) {
      for (int64_t g = 0; g < kTileGroups; ++g) seen[g] = V::no_bits();
    }
    for (int64_t row = 0; row < tile.rows; ++row) {
      const T* at = x + tile.start + row * tile.stride;
      if constexpr (vectors < 0) {
        for (int64_t g = 0; g < tile.count; ++g) {
          seen[g] = max_magnitude<V>(seen[g], at + g * tile.group, tile.length(g));
        }
      } else {
        constexpr int64_t group = vectors == 0 ? step / 2 : vectors * step;
#pragma GCC unroll 16
        for (int64_t g = 0; g < kTileGroups; ++g) {
          const auto before = row == 0 ? V::no_bits() : seen[g];
          seen[g] = max_magnitude<V>(before, at + g * group, group);
        }
      }
    }
  });
  V::largest(seen, absmax, T{});
}

template <class T>
Ends widened(const T* x, int64_t n, Ends ends) {
  int32_t low = ends.low, high = ends.high;
  for (int64_t i = 0; i < n; ++i) {
    const int32_t v = ordered(bits_of(to_float(x[i])));
    low = v < low ? v : low;
    high = v > high ? v : high;
  }
  return {low, high};
}

template <class T>
void range_of(const void* x, int64_t n, float* low, float* high) {
  floats_of(widened(static_cast<const T*>(x), n, kNoEnds), low, high);
}

template <class V, class T>
float absmax_of(const void* x, int64_t n) {
  typename V::Bits seen[kTileGroups];
  for (int64_t g = 1; g < kTileGroups; ++g) seen[g] = V::no_bits();
  seen[0] = max_magnitude<V>(V::no_bits(), static_cast<const T*>(x), n);
  float absmax[kTileGroups];
  V::largest(seen, absmax, T{});
  return absmax[0];
}

// The ends of each group of a tile.
template <class T>
void ranges(const T* x, const Tile& tile, float* low, float* high) {
  for (int64_t g = 0; g < tile.count; ++g) {
    const T* at = x + tile.start + g * tile.group;
    Ends ends = kNoEnds;
    for (int64_t row = 0; row < tile.rows; ++row) ends = widened(at + row * tile.stride, tile.length(g), ends);
    floats_of(ends, low + g, high + g);
  }
}

}  // namespace
}  // namespace qscale::cpu
