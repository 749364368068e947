// Rotated and then quantized, in one pass over memory. No torch.
#pragma once

#include "cuda/hadamard.h"
#include "cuda/job.h"

namespace qscale::cuda {

// `job` quantizes what `rotation` writes: its layout alone, y, format and seed are read, and it lies without gaps.
template <class Element>
struct Rotated {
  // Whether one pass can do it; where not, the two launches can, one after the other.
  static bool serves(DType dtype, const Hadamard& rotation, const Job<Element>& job);
  static cudaError_t values(DType dtype, const Hadamard& rotation, const Job<Element>& job, cudaStream_t stream);
};

}  // namespace qscale::cuda
