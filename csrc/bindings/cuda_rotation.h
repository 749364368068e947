// A Hadamard transform of the blocks of a CUDA tensor, checked and ready to run.
#pragma once

#include "bindings/cuda_device.h"
#include "bindings/hadamard_ops.h"
#include "cuda/hadamard.h"

namespace qscale::cuda {

// Device memory that launches read must live until they are on the stream; torch's allocator sees to the rest.
class CudaRotation {
 public:
  // x lies in rows. The signs are taken as they are: to look at them would be to wait.
  CudaRotation(const torch::stable::Tensor& x, void* y, int64_t block, const std::optional<torch::stable::Tensor>& signs,
               bool transpose, cudaStream_t stream);

  void run(cudaStream_t stream) const;

  Hadamard job{};

 private:
  DType dtype_;
  torch::stable::Tensor flips_, workspace_;
};

}  // namespace qscale::cuda
