// What a launch is asked: a job as the CPU has it, and where its tensors lie.
#pragma once

#include "cuda/teams.cuh"
#include "jobs.h"

namespace qscale::cuda {

// The ends of the whole tensor, in parts: one of each block of the kernel that looked for them.
struct Parts {
  const Ends* each = nullptr;
  int count = 0;
};

template <class Element_>
struct Job : FakeQuant<Element_> {
  using Element = Element_;
  Parts parts;                // where one of these asks for the tensor as a whole:
  bool tensor_level = false;  // its scale, beside those of the groups
  bool one_range = false;     // its range, which serves every group
  int64_t scale_count = 0;    // of the caller's scales, where they are fewer than groups and are repeated
  int64_t x_stride = 0;        // elements of x from a row to the next; those of y lie without gaps
};

// The ends of the tensor, in every thread of the block. All its threads call it.
__device__ __forceinline__ Ends joined_parts(const Parts& parts) {
  Ends ends = nothing_of(Ends{});
  const int threads = static_cast<int>(blockDim.x * blockDim.y);
  const int thread = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x);
  for (int i = thread; i < parts.count; i += threads) ends = joined(ends, parts.each[i]);
  ends = over_lanes(ends, kWarp);
  Ends* found = shared().parts;
  if (thread % kWarp == 0) found[thread / kWarp] = ends;
  __syncthreads();
  const int lane = thread % kWarp;
  return over_lanes(lane < threads / kWarp ? found[lane] : nothing_of(Ends{}), kWarp);
}

__device__ __forceinline__ float magnitude_of(Ends ends) {
  float low, high;
  floats_of(ends, &low, &high);
  return larger(fabsf(low), fabsf(high));
}

}  // namespace qscale::cuda
