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

// The scale of the tensor, and its range, which all threads of a block come to know.
struct OfTensor {
  float scale = 1.0f;
  Ends range{};
};
template <class Element>
__device__ __forceinline__ OfTensor of_tensor(const Job<Element>& job) {
  if (!job.tensor_level && !job.one_range) return {job.scaling.tensor_scale, Ends{}};
  const Ends range = joined_parts(job.parts);
  const float scale = tensor_scale_of(magnitude_of(range), job.scaling.largest);
  return {job.tensor_level ? scale : job.scaling.tensor_scale, range};
}

}  // namespace qscale::cuda
