// The ends of a whole tensor: the first of two launches, the second of which joins the parts.
#pragma once

#include "cuda/launch.h"
#include "cuda/packs.cuh"
#include "cuda/teams.cuh"

namespace qscale::cuda {

constexpr int kRangeThreads = 512;

// The ends of some floats by their bits, in three comparisons each: as signed integers the largest is the largest float
// where one is positive; as unsigned ones it is the smallest float where one is negative; and the smallest is what is
// left, where all are of one sign.
struct BitEnds {
  int32_t most = INT32_MIN;
  uint32_t largest = 0u, smallest = UINT32_MAX;

  __device__ __forceinline__ void add(float v) {
    const uint32_t bits = bits_of(v);
    most = max(most, static_cast<int32_t>(bits));
    largest = max(largest, bits);
    smallest = min(smallest, bits);
  }
  __device__ __forceinline__ Ends ends() const {
    if (smallest > largest) return nothing_of(Ends{});
    const uint32_t high = most >= 0 ? static_cast<uint32_t>(most) : smallest;
    return {ordered((largest >> 31) != 0u ? largest : smallest), ordered(high)};
  }
};

// `packs` whole packs and what is `left` behind them; x is aligned where there are packs. A block writes its part.
template <class T>
__global__ void __launch_bounds__(kRangeThreads) range_parts(const void* x, int64_t packs, int64_t left, Ends* parts) {
  BitEnds found;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kRangeThreads;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRangeThreads + threadIdx.x;
  for (int64_t pack = first; pack < packs; pack += threads) {
    float v[kPack<T>];
    unpack<T>(load_pack(x, pack), v);
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) found.add(v[i]);
  }
  for (int64_t i = first; i < left; i += threads) {
    found.add(to_float(static_cast<const T*>(x)[packs * kPack<T> + i]));
  }
  const Ends ends = over_team(found.ends());
  if (threadIdx.x == 0) parts[blockIdx.x] = ends;
}

// The same of rows with a stride.
template <class T>
__global__ void __launch_bounds__(kRangeThreads)
    range_parts_of_rows(const void* x, int64_t rows, int64_t axis, int64_t stride, Ends* parts) {
  BitEnds found;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* from = static_cast<const T*>(x) + row * stride;
    for (int64_t i = threadIdx.x; i < axis; i += kRangeThreads) {
      found.add(to_float(from[i]));
    }
  }
  const Ends ends = over_team(found.ends());
  if (threadIdx.x == 0) parts[blockIdx.x] = ends;
}

}  // namespace qscale::cuda
