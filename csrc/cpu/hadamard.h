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

constexpr int64_t kFetchedAhead = 4096;  // bytes

// Vectors that lie h apart, `radix` of them, through the stages between them.
template <class V, int radix, bool scaled>
[[gnu::always_inline]] inline void column(const float* x, int64_t h, float scale, typename V::Floats* v) {
#pragma GCC unroll 16
  for (int i = 0; i < radix; ++i) v[i] = V::load(x + i * h);
  between_vectors<V, radix, 1, radix>(v);
  if constexpr (scaled) {
    const auto factor = V::splat(scale);
#pragma GCC unroll 16
    for (int i = 0; i < radix; ++i) v[i] = V::multiply(v[i], factor);
  }
}

// Stages h, 2 h, ..., `log_r` of them, of `count` floats, from v to y; y may be v. A pair is two columns. What `next`
// points to is fetched meanwhile, as many elements.
template <class V, bool scaled, int log_r, class Y>
void pass(const float* v, Y* y, int64_t count, int64_t h, float scale, const Y* next) {
  constexpr int radix = 1 << log_r;
  for (int64_t start = 0; start < count; start += radix * h) {
    for (int64_t j = start; j < start + h; j += kPair) {
      if constexpr (scaled) {
        fetch(next, radix * kPair);
        next += radix * kPair;
      }
      typename V::Floats first[radix], second[radix];
      column<V, radix, scaled>(v + j, h, scale, first);
      column<V, radix, scaled>(v + j + V::width, h, scale, second);
#pragma GCC unroll 16
      for (int i = 0; i < radix; ++i) store_pair<V>(y + j + i * h, first[i], second[i]);
    }
  }
}

template <class V, bool scaled, int log_r, class Y>
void pass_of(int wanted, const float* v, Y* y, int64_t count, int64_t h, float scale, const Y* next) {
  if constexpr (log_r > 1) {
    if (wanted < log_r) return pass_of<V, scaled, log_r - 1>(wanted, v, y, count, h, scale, next);
  }
  pass<V, scaled, log_r>(v, y, count, h, scale, next);
}

// The stages from `h` on, in place. The last pass, where it is wanted, writes y instead.
template <class V, class Y>
void passes(float* v, int64_t count, int64_t h, int64_t inner, float scale, Y* y, const Y* next, bool writes) {
  constexpr int most = V::log_radix;
  int left = 0;
  for (int64_t size = h; size < inner; size *= 2) ++left;
  while (left > 0) {
    const int log_r = left < most ? left : most;
    if (writes && left == log_r) return pass_of<V, true, most>(log_r, v, y, count, h, scale, next);
    pass_of<V, false, most, float>(log_r, v, v, count, h, scale, nullptr);
    h <<= log_r;
    left -= log_r;
  }
}

// The base matrix times `base` rows of `inner` values, column after column. A product with +-1 is exact. A strip of
// pairs is gathered first: rows that lie a power of two apart would contend for the same cache lines.
template <class V, class Y>
void mix(const float* rows, Y* y, const Hadamard& job, int64_t inner, float* strip, const Y* next) {
  constexpr int height = V::mix_rows;
  const auto factor = V::splat(job.scale);
  for (int64_t j = 0; j < inner; j += kPair) {
    for (int64_t c = 0; c < job.base; ++c, next += kPair) {
      fetch(next, kPair);
      memcpy(strip + c * kPair, rows + c * inner + j, kPair * sizeof(float));
    }
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

// One block of a base other than 1, or of more elements than the registers hold. Memory would wait while a block is
// worked on: the lines that will be written and those of the `next` block are fetched meanwhile.
template <class V, class T>
void long_block(const T* x, T* y, const T* next, const Hadamard& job, float* scratch) {
  const int64_t n = job.base * job.inner;
  int log_chunk = 5;
  while (log_chunk < V::log_chunk && int64_t{1} << log_chunk < job.inner) ++log_chunk;
  const auto fetch_y = [y](int64_t start, int64_t size) { fetch(y + start, size); };
  chunks_of<V, false, 5>(log_chunk, x, scratch, n, 1.0f, fetch_y);
  const bool writes = job.base == 1;
  passes<V>(scratch, n, int64_t{1} << log_chunk, job.inner, job.scale, y, next, writes);
  if (!writes) mix<V>(scratch, y, job, job.inner, scratch + n, next);
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
  passes<V, float>(scratch, n * hadamard_lanes, hadamard_lanes, wide, job.scale, nullptr, nullptr, false);
  mix<V, float>(scratch, mixed, job, wide, mixed + n * hadamard_lanes, scratch);
  for (int64_t b = 0; b < blocks; ++b) {
    for (int64_t i = 0; i < n; ++i) from_float(mixed[i * hadamard_lanes + b], y[b * n + i]);
  }
}

// Blocks that fit into registers. Small ones share a pair of vectors, which the last of them need not fill.
template <class V, class T>
void short_blocks(const T* x, T* y, int64_t blocks, const Hadamard& job) {
  constexpr int64_t ahead = kFetchedAhead / static_cast<int64_t>(sizeof(T));
  const int64_t count = blocks * job.inner, left = count % kPair;
  int log_n = 0;
  while (int64_t{1} << log_n < job.inner) ++log_n;
  const auto fetch_both = [=](int64_t start, int64_t size) {
    const int64_t at = start + ahead < count ? start + ahead : start;
    fetch(x + at, size);
    fetch(y + at, size);
  };
  chunks_of<V, true, 0>(log_n, x, y, count - left, job.scale, fetch_both);
  if (left > 0) {
    T padded[1 << V::log_chunk] = {};
    memcpy(padded, x + count - left, static_cast<size_t>(left) * sizeof(T));
    chunks_of<V, true, 0>(log_n, padded, padded, kPair, job.scale, fetch_both);
    memcpy(y + count - left, padded, static_cast<size_t>(left) * sizeof(T));
  }
}

// `next` is what will be read after these blocks, or anything as long.
template <class V, class T>
void hadamard_blocks(const T* x, T* y, int64_t blocks, const T* next, const Hadamard& job, float* scratch) {
  const int64_t n = job.base * job.inner;
  if (job.base == 1 && n <= int64_t{1} << V::log_chunk) {
    short_blocks<V>(x, y, blocks, job);
  } else if (job.inner < hadamard_lanes) {
    for (int64_t b = 0; b < blocks; b += hadamard_lanes) {
      const int64_t some = blocks - b < hadamard_lanes ? blocks - b : hadamard_lanes;
      narrow_blocks<V>(x + b * n, y + b * n, some, job, scratch);
    }
  } else {
    for (int64_t b = 0; b < blocks; ++b) {
      long_block<V>(x + b * n, y + b * n, b + 1 < blocks ? x + (b + 1) * n : next, job, scratch);
    }
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
  const auto after = [&](int64_t block) { return x + (block < job.blocks ? block : first) * n; };
  if (job.flips == nullptr) {
    return hadamard_blocks<V>(x + first * n, y + first * n, last - first, after(last), job, scratch);
  }
  const int64_t blocks = n < hadamard_tile ? hadamard_tile / n : 1;
  T* flipped = reinterpret_cast<T*>(scratch);  // a tile, then the scratch of the transform
  scratch += n < hadamard_tile ? hadamard_tile : n;
  for (int64_t block = first; block < last; block += blocks) {
    const int64_t some = last - block < blocks ? last - block : blocks, start = block * n;
    const T* next = after(block + some);
    if (job.flip_after) {
      hadamard_blocks<V>(x + start, y + start, some, next, job, scratch);
      flip<T, Word>(y + start, y + start, some * n, job, start);
    } else {
      flip<T, Word>(x + start, flipped, some * n, job, start);
      hadamard_blocks<V>(static_cast<const T*>(flipped), y + start, some, next, job, scratch);
    }
  }
}

}  // namespace
}  // namespace qscale::cpu
