// The threads that work on one group, and what they find out together.
#pragma once

#include "cuda/device.cuh"
#include "numerics/dialects/steps.h"
#include "numerics/ends.h"

namespace qscale::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// The start of a block's dynamic shared memory: what its threads leave there for each other.
struct Shared {
  Ends parts[kWarp];
  alignas(16) unsigned char team[kWarp * 2 * sizeof(float)];  // one Reduced of each warp
  float bins[96];                                             // of a codebook
};
__device__ __forceinline__ Shared& shared() { return *dynamic_shared<Shared>(); }

// The larger number, or NaN where either is one.
__device__ __forceinline__ float larger(float a, float b) {
#if defined(__CUDA_ARCH__)
  float largest;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(largest) : "f"(a), "f"(b));
  return largest;
#else
  if (is_nan(a) || is_nan(b)) return float_of(0x7fffffffu);  // a GPU's own
  return a > b ? a : b;
#endif
}

__device__ __forceinline__ float smaller(float a, float b) { return -larger(-a, -b); }

// What groups are asked for their scale: their largest magnitude, or their ends, in two ways.
__device__ __forceinline__ float nothing_of(float) { return 0.0f; }
__device__ __forceinline__ Ends nothing_of(Ends) { return {INT32_MAX, INT32_MIN}; }
__device__ __forceinline__ dialects::Ends nothing_of(dialects::Ends) { return {0.0f, 0.0f}; }

__device__ __forceinline__ float one_of(float v, float) { return fabsf(v); }
__device__ __forceinline__ Ends one_of(float v, Ends) {
  const int32_t key = ordered(bits_of(v));
  return {key, key};
}
__device__ __forceinline__ dialects::Ends one_of(float v, dialects::Ends) { return {v, v}; }

__device__ __forceinline__ float joined(float a, float b) { return larger(a, b); }
__device__ __forceinline__ Ends joined(Ends a, Ends b) {
  return {a.low < b.low ? a.low : b.low, a.high > b.high ? a.high : b.high};
}
__device__ __forceinline__ dialects::Ends joined(dialects::Ends a, dialects::Ends b) {
  return {smaller(a.low, b.low), larger(a.high, b.high)};
}

__device__ __forceinline__ float from_lane(float v, int distance) { return __shfl_xor_sync(kAllLanes, v, distance); }
__device__ __forceinline__ Ends from_lane(Ends v, int distance) {
  return {__shfl_xor_sync(kAllLanes, v.low, distance), __shfl_xor_sync(kAllLanes, v.high, distance)};
}
__device__ __forceinline__ dialects::Ends from_lane(dialects::Ends v, int distance) {
  return {from_lane(v.low, distance), from_lane(v.high, distance)};
}

// Of `lanes` neighbours, a power of two; all lanes of the warp call it.
template <class Reduced>
__device__ __forceinline__ Reduced over_lanes(Reduced v, int lanes) {
  for (int distance = 1; distance < lanes; distance *= 2) v = joined(v, from_lane(v, distance));
  return v;
}

// Of a whole warp. Integers take one instruction, and so do magnitudes, whose bits are in the order of the numbers, a NaN
// beyond infinity.
template <class Reduced>
__device__ __forceinline__ Reduced over_warp(Reduced v) {
  return over_lanes(v, kWarp);
}
__device__ __forceinline__ float over_warp(float magnitude) {
  return float_of(__reduce_max_sync(kAllLanes, bits_of(magnitude)));
}
__device__ __forceinline__ Ends over_warp(Ends v) {
  return {__reduce_min_sync(kAllLanes, v.low), __reduce_max_sync(kAllLanes, v.high)};
}

// Of a row of threads of the block: of a warp, or of several, when the block has one row and all its threads call it.
template <class Reduced>
__device__ __forceinline__ Reduced over_team(Reduced v) {
  v = over_warp(v);
  if (blockDim.x == kWarp) return v;
  static_assert(sizeof(Reduced) * kWarp <= sizeof(Shared::team));
  Reduced* found = reinterpret_cast<Reduced*>(shared().team);
  const int warps = static_cast<int>(blockDim.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  __syncthreads();  // what was found before has been read
  if (lane == 0) found[threadIdx.x / kWarp] = v;
  __syncthreads();
  return over_warp(lane < warps ? found[lane] : nothing_of(Reduced{}));
}

}  // namespace qscale::cuda
