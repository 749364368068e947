// Hadamard transforms of blocks of a power of two, in registers: one read and one write of memory.
#pragma once

#include "cuda/butterflies.cuh"

namespace qscale::cuda {

constexpr int kSegmentWarps = 8;

__device__ __forceinline__ uint4 flipped(uint4 words, uint4 flips) {
  return make_uint4(words.x ^ flips.x, words.y ^ flips.y, words.z ^ flips.z, words.w ^ flips.w);
}

// A place in the flips, which begin anew after each period. Periods are below 2**32 packs.
__device__ __forceinline__ uint32_t place_in_flips(int64_t at, int64_t period) {
  const uint32_t wide = static_cast<uint32_t>(period);
  if ((at >> 32) != 0) return static_cast<uint32_t>(static_cast<uint64_t>(at) % wide);
  return static_cast<uint32_t>(at) % wide;
}

// The flips of packs that lie 32 apart, one after the other.
struct FlipWalk {
  const void* flips;
  uint32_t place, period, step;

  __device__ __forceinline__ FlipWalk(const Hadamard& job, int pack_size, int64_t pack)
      : flips(job.flips),
        place(place_in_flips(pack, job.period / pack_size)),
        period(static_cast<uint32_t>(job.period / pack_size)),
        step(kLanes % period) {}
  __device__ __forceinline__ uint4 next() {
    const uint4 words = load_pack(flips, place);
    place += step;
    if (place >= period) place -= period;
    return words;
  }
};

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
    FlipWalk walk(job, kPack<T>, segment + lane);
#pragma unroll
    for (int k = 0; k < packs; ++k) words[k] = flipped(words[k], walk.next());
  }
#pragma unroll
  for (int k = 0; k < packs; ++k) unpack<T>(words[k], *reinterpret_cast<float(*)[kPack<T>]>(v + k * kPack<T>));
}

template <class T>
__device__ __forceinline__ uint4 scaled_pack(const float* v, float scale) {
  float out[kPack<T>];
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) out[i] = __fmul_rn(v[i], scale);
  return packed<T>(out);
}

// Blocks that a segment holds, one or many: `packs` packs in all.
template <class T, int values>
__global__ void __launch_bounds__(kSegmentWarps* kLanes)
    short_blocks(const __grid_constant__ Hadamard job, int64_t packs) {
  const int lane = static_cast<int>(threadIdx.x) % kLanes, warp = static_cast<int>(threadIdx.x) / kLanes;
  const int64_t segment =
      (static_cast<int64_t>(blockIdx.x) * kSegmentWarps + warp) * (kLanes * kPacksHeld<T, values>);
  if (segment >= packs) return;
  float v[values];
  load_segment<T>(job, segment, packs, lane, v);
  within_segment<T>(v, static_cast<int>(job.inner), lane);
  uint4 words[kPacksHeld<T, values>];
#pragma unroll
  for (int k = 0; k < kPacksHeld<T, values>; ++k) words[k] = scaled_pack<T>(v + k * kPack<T>, job.scale);
  if (job.flips != nullptr && job.flip_after) {
    FlipWalk walk(job, kPack<T>, segment + lane);
#pragma unroll
    for (int k = 0; k < kPacksHeld<T, values>; ++k) words[k] = flipped(words[k], walk.next());
  }
#pragma unroll
  for (int k = 0; k < kPacksHeld<T, values>; ++k) {
    const int64_t pack = segment + k * kLanes + lane;
    if (pack < packs) store_pack(job.y, pack, words[k]);
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

template <class T>
__device__ __forceinline__ QuadWords<T> scaled_quad(const float* v, float scale) {
  float out[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) out[i] = __fmul_rn(v[i], scale);
  return packed_quad(out, T{});
}

// Scaled, rounded, flipped where that is asked. The element's number, and its place in the flips, are multiples of four.
template <class T>
__device__ __forceinline__ void store_quad(const Hadamard& job, const float* v, int64_t at, uint32_t place) {
  QuadWords<T> words = scaled_quad<T>(v, job.scale);
  if (job.flips != nullptr && job.flip_after) {
    words = flipped(words, static_cast<const QuadWords<T>*>(job.flips)[place / 4]);
  }
  static_cast<QuadWords<T>*>(job.y)[at / 4] = words;
}

// A block of `warps` segments to each thread block: what a thread then has of it, before the scale.
template <class T, int values, int each>
__device__ __forceinline__ void wide_block(const Hadamard& job, const Exchange<T, values, each>& exchange, float* shared,
                                           float (&v)[values]) {
  constexpr int packs = kLanes * kPacksHeld<T, values>;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kLanes, warp = thread / kLanes;
  const int64_t segment = (static_cast<int64_t>(blockIdx.x) * exchange.warps + warp) * packs;
  load_segment<T>(job, segment, segment + packs, lane, v);
  within_segment<T>(v, kLanes * values, lane);
  exchange.run(v, shared, thread);
}

template <class T, int values, int warps, int each>
__global__ void __launch_bounds__(warps* kLanes) wide_blocks(const __grid_constant__ Hadamard job) {
  const Exchange<T, values, each> exchange{warps};
  constexpr int n = values * kLanes * warps;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t block = blockIdx.x;
  float v[values];
  wide_block(job, exchange, dynamic_shared<float>(), v);
  const uint32_t start = job.flips == nullptr ? 0 : place_in_flips(block, job.period / n) * n;
#pragma unroll
  for (int quad = 0; quad < exchange.kQuads; ++quad) {
    const int place = exchange.place(quad, thread);
    store_quad<T>(job, v + quad * 4, block * n + place, start + static_cast<uint32_t>(place));
  }
}

}  // namespace qscale::cuda
