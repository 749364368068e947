// The ends of a whole tensor: the first of two launches, the second of which joins the parts.
#pragma once

#include "cuda/launch.h"
#include "cuda/packs.cuh"
#include "cuda/teams.cuh"

namespace qscale::cuda {

constexpr int kRangeThreads = 512;

// `packs` whole packs and what is `left` behind them; x is aligned where there are packs. A block writes its part.
template <class T>
__global__ void __launch_bounds__(kRangeThreads) range_parts(const void* x, int64_t packs, int64_t left, Ends* parts) {
  Ends ends = nothing_of(Ends{});
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kRangeThreads;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRangeThreads + threadIdx.x;
  for (int64_t pack = first; pack < packs; pack += threads) {
    float v[kPack<T>];
    unpack<T>(load_pack(x, pack), v);
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) ends = joined(ends, one_of(v[i], Ends{}));
  }
  for (int64_t i = first; i < left; i += threads) {
    ends = joined(ends, one_of(to_float(static_cast<const T*>(x)[packs * kPack<T> + i]), Ends{}));
  }
  ends = over_team(ends);
  if (threadIdx.x == 0) parts[blockIdx.x] = ends;
}

// The same of rows with a stride.
template <class T>
__global__ void __launch_bounds__(kRangeThreads)
    range_parts_of_rows(const void* x, int64_t rows, int64_t axis, int64_t stride, Ends* parts) {
  Ends ends = nothing_of(Ends{});
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* from = static_cast<const T*>(x) + row * stride;
    for (int64_t i = threadIdx.x; i < axis; i += kRangeThreads) {
      ends = joined(ends, one_of(to_float(from[i]), Ends{}));
    }
  }
  ends = over_team(ends);
  if (threadIdx.x == 0) parts[blockIdx.x] = ends;
}

}  // namespace qscale::cuda
