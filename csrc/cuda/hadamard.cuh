// Hadamard transforms of blocks of a power of two, in registers: one read and one write of memory.
#pragma once

#include "cuda/butterflies.cuh"

namespace qscale::cuda {

constexpr int kSegmentWarps = 8;

__device__ __forceinline__ uint4 flipped(uint4 words, uint4 flips) {
  return make_uint4(words.x ^ flips.x, words.y ^ flips.y, words.z ^ flips.z, words.w ^ flips.w);
}

// Where pack `pack` of the tensor stands in the flips.
__device__ __forceinline__ int64_t place_in_flips(int64_t pack, int64_t packs_in_period) {
  if ((packs_in_period & (packs_in_period - 1)) == 0) return pack & (packs_in_period - 1);
  if (((pack | packs_in_period) >> 32) != 0) return pack % packs_in_period;
  return static_cast<uint32_t>(pack) % static_cast<uint32_t>(packs_in_period);
}

// What a lane holds of the segment whose first pack is `segment`; beyond `end` there are zeros.
template <class T, int values>
__device__ __forceinline__ void load_segment(const Hadamard& job, int64_t segment, int64_t end, int lane,
                                             float (&v)[values]) {
  constexpr int packs = kPacksHeld<T, values>;
  uint4 words[packs];
#pragma unroll
  for (int k = 0; k < packs; ++k) {
    const int64_t pack = segment + k * kLanes + lane;
    words[k] = pack < end ? load_pack(job.x, pack) : uint4{};
  }
  if (job.flips != nullptr && !job.flip_after) {
#pragma unroll
    for (int k = 0; k < packs; ++k) {
      const int64_t place = place_in_flips(segment + k * kLanes + lane, job.period / kPack<T>);
      words[k] = flipped(words[k], load_pack(job.flips, place));
    }
  }
#pragma unroll
  for (int k = 0; k < packs; ++k) unpack<T>(words[k], *reinterpret_cast<float(*)[kPack<T>]>(v + k * kPack<T>));
}

// Blocks that a segment holds, one or many: `packs` packs in all.
template <class T, int values>
__global__ void __launch_bounds__(kSegmentWarps* kLanes)
    short_blocks(const __grid_constant__ Hadamard job, int64_t packs) {
  constexpr int pack_size = kPack<T>;
  const int lane = static_cast<int>(threadIdx.x) % kLanes, warp = static_cast<int>(threadIdx.x) / kLanes;
  const int64_t segment =
      (static_cast<int64_t>(blockIdx.x) * kSegmentWarps + warp) * (kLanes * kPacksHeld<T, values>);
  if (segment >= packs) return;
  float v[values];
  load_segment<T>(job, segment, packs, lane, v);
  within_segment<T>(v, static_cast<int>(job.inner), lane);
  const bool flips = job.flips != nullptr && job.flip_after;
#pragma unroll
  for (int k = 0; k < kPacksHeld<T, values>; ++k) {
    const int64_t pack = segment + k * kLanes + lane;
    float out[pack_size];
#pragma unroll
    for (int i = 0; i < pack_size; ++i) out[i] = __fmul_rn(v[k * pack_size + i], job.scale);
    uint4 words = packed<T>(out);
    if (flips) words = flipped(words, load_pack(job.flips, place_in_flips(pack, job.period / pack_size)));
    if (pack < packs) store_pack(job.y, pack, words);
  }
}

// Four elements, as they are stored.
__device__ __forceinline__ uint4 packed_quad(const float* v, float) {
  return make_uint4(bits_of(v[0]), bits_of(v[1]), bits_of(v[2]), bits_of(v[3]));
}
template <class T>
__device__ __forceinline__ uint2 packed_quad(const float* v, T) {
  return make_uint2(packed_word(v, T{}), packed_word(v + 2, T{}));
}
__device__ __forceinline__ uint2 flipped(uint2 words, uint2 flips) {
  return make_uint2(words.x ^ flips.x, words.y ^ flips.y);
}
template <class T>
using QuadWords = decltype(packed_quad(nullptr, T{}));

// Scaled, rounded, flipped where that is asked. The element's number, and its place in the flips, are multiples of four.
template <class T>
__device__ __forceinline__ void store_quad(const Hadamard& job, const float* v, int64_t at, int64_t place) {
  float out[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) out[i] = __fmul_rn(v[i], job.scale);
  QuadWords<T> words = packed_quad(out, T{});
  if (job.flips != nullptr && job.flip_after) {
    words = flipped(words, static_cast<const QuadWords<T>*>(job.flips)[place / 4]);
  }
  static_cast<QuadWords<T>*>(job.y)[at / 4] = words;
}

// A block of `warps` segments to each thread block.
template <class T, int values, int warps, int each>
__global__ void __launch_bounds__(warps* kLanes) wide_blocks(const __grid_constant__ Hadamard job) {
  using Way = Exchange<T, values, warps, each>;
  constexpr int n = values * kLanes * warps, packs = n / kPack<T>;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kLanes, warp = thread / kLanes;
  const int64_t block = blockIdx.x;
  float v[values];
  load_segment<T>(job, block * packs + warp * (packs / warps), job.blocks * packs, lane, v);
  within_segment<T>(v, n, lane);
  Way::run(v, dynamic_shared<float>(), thread);
  const int64_t start = job.flips == nullptr ? 0 : place_in_flips(block, job.period / n) * n;
#pragma unroll
  for (int quad = 0; quad < Way::kQuads; ++quad) {
    const int place = Way::place(quad, thread);
    store_quad<T>(job, v + quad * 4, block * n + place, start + place);
  }
}

}  // namespace qscale::cuda
