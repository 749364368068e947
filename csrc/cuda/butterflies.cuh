// The stages of a Hadamard transform between the registers of a lane, the lanes of a warp and the warps of a block.
//
// Bits of an element's place, lowest first: in its pack; lane; pack of the lane; warp. Stages h = 1, 2, 4, ... take them
// in that order, so that only the last, between warps, need shared memory.
#pragma once

#include "cuda/hadamard.h"
#include "cuda/packs.cuh"

namespace qscale::cuda {

constexpr int kLanes = 32;

// A segment is what a warp holds: `values` a lane, in packs that lie 32 packs apart.
template <class T, int values>
constexpr int kPacksHeld = values / kPack<T>;

__device__ __forceinline__ void add_and_subtract(float& a, float& b) {
  const float sum = __fadd_rn(a, b);
  b = __fsub_rn(a, b);
  a = sum;
}

// Stages between registers `h`, 2 h, ... below `end` apart, whose elements lie `apart` times as far: those below `inner`.
template <int h, int end, int apart, int values>
__device__ __forceinline__ void between_registers(float (&v)[values], int inner) {
  if constexpr (h < end) {
    if (h * apart >= inner) return;
#pragma unroll
    for (int i = 0; i < values; ++i) {
      if ((i & h) == 0) add_and_subtract(v[i], v[i + h]);
    }
    between_registers<2 * h, end, apart>(v, inner);
  }
}

// Stages between lanes `distance`, 2 * distance, ... apart. The product with +-1 is exact: a sum or a difference.
template <int distance, int pack, int values>
__device__ __forceinline__ void between_lanes(float (&v)[values], int inner, int lane) {
  if constexpr (distance < kLanes) {
    if (distance * pack >= inner) return;
    const float sign = (lane & distance) == 0 ? 1.0f : -1.0f;
#pragma unroll
    for (int i = 0; i < values; ++i) v[i] = __fmaf_rn(v[i], sign, __shfl_xor_sync(0xffffffffu, v[i], distance));
    between_lanes<2 * distance, pack>(v, inner, lane);
  }
}

// All stages within a segment of blocks of `inner`, or of a part of one.
template <class T, int values>
__device__ __forceinline__ void within_segment(float (&v)[values], int inner, int lane) {
  between_registers<1, kPack<T>, 1>(v, inner);
  between_lanes<1, kPack<T>>(v, inner, lane);
  between_registers<kPack<T>, values, kLanes>(v, inner);
}

template <int floats>
__device__ __forceinline__ void store_shared(float* to, const float* v) {
  if constexpr (floats == 4) {
    *reinterpret_cast<float4*>(to) = make_float4(v[0], v[1], v[2], v[3]);
  } else {
    *reinterpret_cast<float2*>(to) = make_float2(v[0], v[1]);
  }
}
template <int floats>
__device__ __forceinline__ void load_shared(const float* from, float* v) {
  if constexpr (floats == 4) {
    const float4 read = *reinterpret_cast<const float4*>(from);
    v[0] = read.x, v[1] = read.y, v[2] = read.z, v[3] = read.w;
  } else {
    const float2 read = *reinterpret_cast<const float2*>(from);
    v[0] = read.x, v[1] = read.y;
  }
}

// A block of one segment a warp, through shared memory: each thread gives up its packs and gets quads of four elements,
// those of all warps, so that the stages between warps are between registers. `each` elements of a quad go at a time.
//
// Segments lie as planes, the first quads of all packs, then the second ones; the planes are half the banks apart, for
// a reader takes both by turns.
template <class T, int values, int each>
struct Exchange {
  static constexpr int kQuads = values / 4, kPlanes = kPack<T> / 4;
  static constexpr int kPlane = kLanes * kPacksHeld<T, values> * each + (kPlanes > 1 ? 16 : 0);
  static constexpr size_t kBytesOfWarp = sizeof(float) * kPlane * kPlanes;
  int warps;  // a power of two up to kQuads, for a thread has a quad of each

  // The place in the block of quad `number` of a thread.
  __device__ __forceinline__ int place(int number, int thread) const {
    return number % warps * (values * kLanes) + (number / warps * (warps * kLanes) + thread) * 4;
  }

  __device__ __forceinline__ void run(float (&v)[values], float* shared, int thread) const {
    const int lane = thread % kLanes, warp = thread / kLanes;
    float* mine = shared + warp * (kPlanes * kPlane) + lane * each;
    const float* theirs = shared + thread % kPlanes * kPlane + thread / kPlanes * each;
#pragma unroll
    for (int part = 0; part < 4; part += each) {
      if (part > 0) __syncthreads();
#pragma unroll
      for (int quad = 0; quad < kQuads; ++quad) {
        store_shared<each>(mine + quad % kPlanes * kPlane + quad / kPlanes * (kLanes * each), v + quad * 4 + part);
      }
      __syncthreads();
#pragma unroll
      for (int quad = 0; quad < kQuads; ++quad) {
        const int further = quad / warps * (warps * kLanes / kPlanes * each);
        load_shared<each>(theirs + quad % warps * (kPlanes * kPlane) + further, v + quad * 4 + part);
      }
    }
    between_registers<4, values, 1>(v, 4 * warps);
  }
};

}  // namespace qscale::cuda
