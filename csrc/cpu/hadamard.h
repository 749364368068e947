// Hadamard transforms of blocks, once for all instruction sets: V is one of butterfly_{plain,avx2,avx512}.h.
//
// Each value is the result of the same operations in the same order whatever V, the dtype or the size, so bits are
// equal: stages h = 1, 2, 4, ... of sums and differences, then the base matrix column by column, then the scale. What
// is free is where values are kept meanwhile: as many stages as fit are done in registers, the others in passes over
// `scratch`, several stages a pass.
#pragma once

#include "cpu/hadamard_chunks.h"
#include "cpu/hadamard_job.h"
#include "cpu/kernels.h"
#include "numerics/float16.h"

namespace qscale::cpu {
namespace {

constexpr int64_t kCacheLine = 64;
constexpr int64_t kFetchedAhead = 32768;  // what a longer block fetched would be gone when it is wanted

// Stages h, 2 h, ..., `log_r` of them, of `count` floats, from v to y; y may be v.
template <class V, class Y, int log_r, bool scaled>
void pass(const float* v, Y* y, int64_t count, int64_t h, float scale) {
  constexpr int radix = 1 << log_r;
  const auto factor = V::splat(scale);
  for (int64_t start = 0; start < count; start += radix * h) {
    for (int64_t j = start; j < start + h; j += kPair) {
      typename V::Floats pairs[2 * radix];
#pragma GCC unroll 16
      for (int i = 0; i < radix; ++i) load_pair<V>(v + j + i * h, pairs[2 * i], pairs[2 * i + 1]);
      between_vectors<V, radix, 1, 2>(pairs);
      between_vectors<V, radix, 1, 2>(pairs + 1);
#pragma GCC unroll 16
      for (int i = 0; i < radix; ++i) {
        if constexpr (scaled) {
          pairs[2 * i] = V::multiply(pairs[2 * i], factor);
          pairs[2 * i + 1] = V::multiply(pairs[2 * i + 1], factor);
        }
        store_pair<V>(y + j + i * h, pairs[2 * i], pairs[2 * i + 1]);
      }
    }
  }
}

template <class V, class Y, bool scaled>
void pass_of(int log_r, const float* v, Y* y, int64_t count, int64_t h, float scale) {
  if constexpr (V::log_radix >= 3) {
    if (log_r == 3) return pass<V, Y, 3, scaled>(v, y, count, h, scale);
  }
  if (log_r == 2) return pass<V, Y, 2, scaled>(v, y, count, h, scale);
  pass<V, Y, 1, scaled>(v, y, count, h, scale);
}

// The stages from `h` on, in place. The last pass, where it is wanted, writes y instead.
template <class V, class Y>
void passes(float* v, Y* y, int64_t count, int64_t h, int64_t inner, float scale, bool writes) {
  int left = 0;
  for (int64_t size = h; size < inner; size *= 2) ++left;
  while (left > 0) {
    const int log_r = left < V::log_radix ? left : V::log_radix;
    if (writes && left == log_r) return pass_of<V, Y, true>(log_r, v, y, count, h, scale);
    pass_of<V, float, false>(log_r, v, v, count, h, scale);
    h <<= log_r;
    left -= log_r;
  }
}

// The base matrix times `base` rows of `inner` values, column after column. A product with +-1 is exact. A strip of
// pairs is gathered first: rows that lie a power of two apart would contend for the same cache lines.
template <class V, class Y>
void mix(const float* rows, Y* y, const Hadamard& job, int64_t inner, float* strip) {
  constexpr int height = V::mix_rows;
  const auto factor = V::splat(job.scale);
  for (int64_t j = 0; j < inner; j += kPair) {
    for (int64_t c = 0; c < job.base; ++c) memcpy(strip + c * kPair, rows + c * inner + j, kPair * sizeof(float));
    for (int64_t r = 0; r < job.base; r += height) {
      const float* matrix = job.matrix + r * job.base;
      typename V::Floats a[height], b[height];
#pragma GCC unroll 4
      for (int i = 0; i < height; ++i) {
        const auto sign = V::splat(matrix[i * job.base]);
        a[i] = V::multiply(V::load(strip), sign);
        b[i] = V::multiply(V::load(strip + V::width), sign);
      }
      for (int64_t c = 1; c < job.base; ++c) {
        const auto first = V::load(strip + c * kPair), second = V::load(strip + c * kPair + V::width);
#pragma GCC unroll 4
        for (int i = 0; i < height; ++i) {
          const auto sign = V::splat(matrix[i * job.base + c]);
          a[i] = V::multiply_add(first, sign, a[i]);
          b[i] = V::multiply_add(second, sign, b[i]);
        }
      }
#pragma GCC unroll 4
      for (int i = 0; i < height; ++i) {
        store_pair<V>(y + (r + i) * inner + j, V::multiply(a[i], factor), V::multiply(b[i], factor));
      }
    }
  }
}

// The next block's elements, and the lines that this block will write: memory would wait while a block is worked on.
template <class T>
void fetch_ahead(const T* x, const T* y, int64_t count) {
  constexpr int64_t step = kCacheLine / static_cast<int64_t>(sizeof(T));
  for (int64_t i = 0; i < count; i += step) {
    __builtin_prefetch(x + i, 0, 2);
    __builtin_prefetch(y + i, 1, 2);
  }
}

// One block of a base other than 1, or of more elements than the registers hold.
template <class V, class T>
void long_block(const T* x, T* y, const Hadamard& job, float* scratch) {
  const int64_t n = job.base * job.inner;
  int log_chunk = 5;
  while (log_chunk < V::log_chunk && int64_t{1} << log_chunk < job.inner) ++log_chunk;
  if (n <= kFetchedAhead) fetch_ahead(x + n, y, n);
  chunks_of<V, T, float, false, 5>(log_chunk, x, scratch, n, 1.0f);
  const bool writes = job.base == 1;
  passes<V, T>(scratch, y, n, int64_t{1} << log_chunk, job.inner, job.scale, writes);
  if (!writes) mix<V, T>(scratch, y, job, job.inner, scratch + n);
}

// Up to 32 blocks of a narrow inner part: side by side, so that every stage is one between vectors.
template <class V, class T>
void narrow_blocks(const T* x, T* y, int64_t blocks, const Hadamard& job, float* scratch) {
  const int64_t n = job.base * job.inner, wide = job.inner * hadamard_lanes;
  float* mixed = scratch + n * hadamard_lanes;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t b = 0; b < hadamard_lanes; ++b) {
      scratch[i * hadamard_lanes + b] = b < blocks ? to_float(x[b * n + i]) : 0.0f;
    }
  }
  passes<V, float>(scratch, scratch, n * hadamard_lanes, hadamard_lanes, wide, job.scale, false);
  mix<V, float>(scratch, mixed, job, wide, mixed + n * hadamard_lanes);
  for (int64_t b = 0; b < blocks; ++b) {
    for (int64_t i = 0; i < n; ++i) from_float(mixed[i * hadamard_lanes + b], y[b * n + i]);
  }
}

// Blocks that fit into registers. Small ones share a pair of vectors, which the last of them need not fill.
template <class V, class T>
void short_blocks(const T* x, T* y, int64_t blocks, const Hadamard& job) {
  const int64_t count = blocks * job.inner, left = count % kPair;
  int log_n = 0;
  while (int64_t{1} << log_n < job.inner) ++log_n;
  chunks_of<V, T, T, true, 0>(log_n, x, y, count - left, job.scale);
  if (left > 0) {
    T padded[1 << V::log_chunk] = {};
    memcpy(padded, x + count - left, static_cast<size_t>(left) * sizeof(T));
    chunks_of<V, T, T, true, 0>(log_n, padded, padded, kPair, job.scale);
    memcpy(y + count - left, padded, static_cast<size_t>(left) * sizeof(T));
  }
}

template <class V, class T>
void hadamard_blocks(const T* x, T* y, int64_t blocks, const Hadamard& job, float* scratch) {
  const int64_t n = job.base * job.inner;
  if (job.base == 1 && n <= int64_t{1} << V::log_chunk) {
    short_blocks<V>(x, y, blocks, job);
  } else if (job.inner < hadamard_lanes) {
    for (int64_t b = 0; b < blocks; b += hadamard_lanes) {
      const int64_t some = blocks - b < hadamard_lanes ? blocks - b : hadamard_lanes;
      narrow_blocks<V>(x + b * n, y + b * n, some, job, scratch);
    }
  } else {
    for (int64_t b = 0; b < blocks; ++b) long_block<V>(x + b * n, y + b * n, job, scratch);
  }
}

// y = x with signs flipped; `start` is x's place in its tensor. Words are XORed: a NaN keeps its payload.
template <class T, class Word>
void flip(const T* x, T* y, int64_t count, const Hadamard& job, int64_t start) {
  const Word* flips = static_cast<const Word*>(job.flips);
  int64_t at = start % job.period;
  for (int64_t i = 0; i < count;) {
    const int64_t left = job.period - at, some = count - i < left ? count - i : left;
    for (int64_t k = 0; k < some; ++k) {
      Word word;
      memcpy(&word, x + i + k, sizeof word);
      word = static_cast<Word>(word ^ flips[at + k]);
      memcpy(y + i + k, &word, sizeof word);
    }
    i += some;
    at = 0;
  }
}

template <class V, class T, class Word>
void hadamard(const Hadamard& job, int64_t first, int64_t last, float* scratch) {
  const int64_t n = job.base * job.inner;
  const T* x = static_cast<const T*>(job.x);
  T* y = static_cast<T*>(job.y);
  if (job.flips == nullptr) return hadamard_blocks<V>(x + first * n, y + first * n, last - first, job, scratch);
  const int64_t blocks = n < hadamard_tile ? hadamard_tile / n : 1;
  T* flipped = reinterpret_cast<T*>(scratch);  // a tile, then the scratch of the transform
  scratch += n < hadamard_tile ? hadamard_tile : n;
  for (int64_t block = first; block < last; block += blocks) {
    const int64_t some = last - block < blocks ? last - block : blocks, start = block * n;
    if (job.flip_after) {
      hadamard_blocks<V>(x + start, y + start, some, job, scratch);
      flip<T, Word>(y + start, y + start, some * n, job, start);
    } else {
      flip<T, Word>(x + start, flipped, some * n, job, start);
      hadamard_blocks<V>(static_cast<const T*>(flipped), y + start, some, job, scratch);
    }
  }
}

}  // namespace
}  // namespace qscale::cpu
