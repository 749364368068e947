// What all threads of a block find out of the tensor as a whole.
#pragma once

#include "cuda/job.h"
#include "cuda/teams.cuh"

namespace qscale::cuda {

// The ends of the tensor, in every thread of the block. All its threads call it.
__device__ __forceinline__ Ends joined_parts(const Parts& parts) {
  Ends ends = nothing_of(Ends{});
  const int threads = static_cast<int>(blockDim.x * blockDim.y);
  const int thread = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x);
  for (int i = thread; i < parts.count; i += threads) ends = joined(ends, parts.each[i]);
  ends = over_warp(ends);
  Ends* found = shared().parts;
  if (thread % kWarp == 0) found[thread / kWarp] = ends;
  __syncthreads();
  const int lane = thread % kWarp;
  return over_warp(lane < threads / kWarp ? found[lane] : nothing_of(Ends{}));
}

__device__ __forceinline__ float magnitude_of(Ends ends) {
  float low, high;
  floats_of(ends, &low, &high);
  return larger(fabsf(low), fabsf(high));
}

}  // namespace qscale::cuda
