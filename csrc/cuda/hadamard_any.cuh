// Hadamard transforms of blocks with a base matrix, and of blocks of any size, alignment and stride: values are kept in
// shared memory, or in a workspace where that is too small.
#pragma once

#include "cuda/hadamard.cuh"

namespace qscale::cuda {

constexpr int kMixThreads = 512;  // at most
constexpr int kMixValues = 32;    // of a lane, in the stages that are done in registers
constexpr int kMixRows = 4;       // of a tile; every base is a multiple of it
constexpr int kMixQuads = 2;      // of a row of a tile

// What a thread block works on: `at_once` blocks side by side, so that column b * inner + j of row c is element
// c * inner + j of block b, and the stages within rows are stages over all the values.
struct Piece {
  int64_t first, blocks;  // those that there are, of `at_once`
  int at_once, columns, log_inner;
};

__device__ __forceinline__ Piece piece_of(const Hadamard& job, int64_t number, int64_t first, int at_once) {
  const int64_t start = first + number * at_once, left = job.blocks - start;
  return {start, left < at_once ? left : at_once, at_once, static_cast<int>(at_once * job.inner),
          31 - __clz(static_cast<int>(job.inner))};
}

// Where an element of the piece is kept: `at` counts through its blocks, one behind the other.
__device__ __forceinline__ int kept_at(const Hadamard& job, const Piece& piece, int at) {
  const int n = static_cast<int>(job.size()), inner = static_cast<int>(job.inner);
  const int block = piece.at_once == 1 ? 0 : at / n, rest = at - block * n, row = rest >> piece.log_inner;
  return row * piece.columns + block * inner + (rest & (inner - 1));
}

template <class T>
__device__ __forceinline__ T flipped_element(T value, const void* flips, int64_t place) {
  using Word = std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>;
  Word word;
  memcpy(&word, &value, sizeof word);
  word = static_cast<Word>(word ^ static_cast<const Word*>(flips)[place]);
  memcpy(&value, &word, sizeof word);
  return value;
}

// Element by element, from rows of any stride.
template <class T>
__device__ __forceinline__ void load_elements(const Hadamard& job, const Piece& piece, float* values) {
  const int64_t n = job.size(), in_row = job.axis / n;
  const int count = static_cast<int>(n) * piece.at_once, present = static_cast<int>(piece.blocks * n);
  for (int at = static_cast<int>(threadIdx.x); at < count; at += static_cast<int>(blockDim.x)) {
    float value = 0.0f;
    if (at < present) {
      const int64_t block = piece.first + at / static_cast<int>(n), row = block / in_row, place = piece.first * n + at;
      T element = static_cast<const T*>(job.x)[row * (job.x_stride - job.axis) + place];
      if (job.flips != nullptr && !job.flip_after) element = flipped_element(element, job.flips, place_in_flips(place, job.period));
      value = to_float(element);
    }
    values[kept_at(job, piece, at)] = value;
  }
}

// Segment after segment, the stages within them done on the way. A pack lies within a row.
template <class T>
__device__ __forceinline__ void load_segments(const Hadamard& job, const Piece& piece, float* values) {
  constexpr int packs = kPacksHeld<T, kMixValues>, segment = kLanes * packs;
  const int lane = static_cast<int>(threadIdx.x) % kLanes, warp = static_cast<int>(threadIdx.x) / kLanes;
  const int64_t before = piece.first * job.size() / kPack<T>;
  const int count = static_cast<int>(piece.blocks * job.size() / kPack<T>);
  for (int start = warp * segment; start < count; start += static_cast<int>(blockDim.x) / kLanes * segment) {
    float v[kMixValues];
    load_segment<T>(job, before + start, before + count, lane, v);
    within_segment<T>(v, static_cast<int>(job.inner), lane);
#pragma unroll
    for (int k = 0; k < packs; ++k) {
      const int pack = start + k * kLanes + lane;
      if (pack >= count) continue;
      float* to = values + kept_at(job, piece, pack * kPack<T>);
#pragma unroll
      for (int i = 0; i < kPack<T>; i += 4) store_shared<4>(to + i, v + k * kPack<T> + i);
    }
  }
}

// `log_radix` stages from `h` on, in place.
template <int log_radix>
__device__ __forceinline__ void pass(float* values, int count, int h) {
  constexpr int radix = 1 << log_radix;
  for (int at = static_cast<int>(threadIdx.x); at < count >> log_radix; at += static_cast<int>(blockDim.x)) {
    float* first = values + ((at & -h) << log_radix | (at & (h - 1)));
    float v[radix];
#pragma unroll
    for (int i = 0; i < radix; ++i) v[i] = first[i * h];
    between_registers<1, radix, 1>(v, radix);
#pragma unroll
    for (int i = 0; i < radix; ++i) first[i * h] = v[i];
  }
  __syncthreads();
}

__device__ __forceinline__ void passes(float* values, int count, int h, int inner) {
  for (; h * 4 < inner; h *= 8) pass<3>(values, count, h);
  if (h * 2 < inner) pass<2>(values, count, h), h *= 4;
  if (h < inner) pass<1>(values, count, h);
}

template <class T>
__device__ __forceinline__ void store_element(const Hadamard& job, float value, int64_t at) {
  T element;
  const uint32_t word = packed_word_of(__fmul_rn(value, job.scale), T{});
  memcpy(&element, &word, sizeof element);
  if (job.flips != nullptr && job.flip_after) element = flipped_element(element, job.flips, place_in_flips(at, job.period));
  static_cast<T*>(job.y)[at] = element;
}

// The base matrix times the rows: a thread makes four elements below each other of two quads of columns. Terms are
// added column after column of the matrix; products with +-1 are exact, and -0 plus the first of them is that.
template <class T, bool by_quads>
__device__ __forceinline__ void mix(const Hadamard& job, const Signs& matrix, const Piece& piece, const float* values) {
  const int base = static_cast<int>(job.base), inner = static_cast<int>(job.inner), columns = piece.columns;
  const int tiles_in_row = columns / (4 * kMixQuads), tiles = base / kMixRows * tiles_in_row;
  const int words = static_cast<int>(words_in_row(base));
  for (int tile = static_cast<int>(threadIdx.x); tile < tiles; tile += static_cast<int>(blockDim.x)) {
    const int above = tile / tiles_in_row, first_row = above * kMixRows, first_quad = tile - above * tiles_in_row;
    float sums[kMixRows][kMixQuads * 4];
#pragma unroll
    for (int i = 0; i < kMixRows * kMixQuads * 4; ++i) sums[i / (kMixQuads * 4)][i % (kMixQuads * 4)] = -0.0f;
    const float* from = values + first_quad * 4;
    for (int word = 0; word < words; ++word) {
      uint32_t signs[kMixRows];
#pragma unroll
      for (int row = 0; row < kMixRows; ++row) signs[row] = matrix.words[(first_row + row) * words + word];
      const int left = base - word * 32, end = left < 32 ? left : 32;
#pragma unroll 1
      for (int column = 0; column < end; column += 4) {
#pragma unroll
        for (int i = 0; i < 4; ++i, from += columns) {
          float term[kMixQuads * 4];
#pragma unroll
          for (int quad = 0; quad < kMixQuads; ++quad) load_shared<4>(from + quad * tiles_in_row * 4, term + quad * 4);
#pragma unroll
          for (int row = 0; row < kMixRows; ++row) {
            const float sign = float_of(((signs[row] << i) & 0x80000000u) | 0x3f800000u);
#pragma unroll
            for (int k = 0; k < kMixQuads * 4; k += 2) add_signed_pair(term + k, sign, sums[row] + k, sums[row] + k);
          }
        }
#pragma unroll
        for (int row = 0; row < kMixRows; ++row) signs[row] <<= 4;
      }
    }
#pragma unroll
    for (int quad = 0; quad < kMixQuads; ++quad) {
      const int column = (first_quad + quad * tiles_in_row) * 4;
#pragma unroll
      for (int part = 0; part < (by_quads ? 1 : 4); ++part) {
        const int block = (column + part) >> piece.log_inner, within = (column + part) & (inner - 1);
        if (block >= piece.blocks) continue;
#pragma unroll
        for (int row = 0; row < kMixRows; ++row) {
          const int64_t at = (piece.first + block) * job.size() + (first_row + row) * inner + within;
          if constexpr (by_quads) {
            store_quad<T>(job, sums[row] + quad * 4, at, job.flips == nullptr ? 0 : place_in_flips(at, job.period));
          } else {
            store_element<T>(job, sums[row][quad * 4 + part], at);
          }
        }
      }
    }
  }
}

// `by_packs`: x lies without gaps and aligned, and a row of a block is a pack or more. With a workspace, a thread block
// takes one piece after the other.
template <class T, bool by_packs, bool in_workspace>
__global__ void __launch_bounds__(kMixThreads, 1)
    any_blocks(const __grid_constant__ Hadamard job, const __grid_constant__ Signs matrix, int64_t first, int64_t pieces,
               int at_once, float* workspace) {
  const int count = static_cast<int>(job.size()) * at_once, inner = static_cast<int>(job.inner);
  float* values = in_workspace ? workspace + static_cast<int64_t>(blockIdx.x) * count : dynamic_shared<float>();
  for (int64_t number = blockIdx.x; number < pieces; number += gridDim.x) {
    const Piece piece = piece_of(job, number, first, at_once);
    if (number != static_cast<int64_t>(blockIdx.x)) __syncthreads();  // what was there has been read
    if constexpr (by_packs) {
      load_segments<T>(job, piece, values);
    } else {
      load_elements<T>(job, piece, values);
    }
    __syncthreads();
    passes(values, count, by_packs ? kLanes * kMixValues : 1, inner);
    if (job.base > 1) {
      mix<T, by_packs>(job, matrix, piece, values);
    } else {
      const int present = static_cast<int>(piece.blocks * job.size());
      for (int at = static_cast<int>(threadIdx.x); at < present; at += static_cast<int>(blockDim.x)) {
        store_element<T>(job, values[at], piece.first * job.size() + at);
      }
    }
  }
}

}  // namespace qscale::cuda
