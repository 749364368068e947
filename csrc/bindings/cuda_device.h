// What the bindings of all CUDA ops share: the stream of the caller, on the device of the tensor. Under the tests'
// emulator, which runs kernels on the CPU, there is neither.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#if defined(QSCALE_CUDA_EMULATOR)
#define QSCALE_CUDA_KEY CPU
#else
#define QSCALE_CUDA_KEY CUDA
#endif

namespace qscale::cuda {

// While it lives, launches go to the device of x, in the caller's order.
class OnDevice {
 public:
#if defined(QSCALE_CUDA_EMULATOR)
  explicit OnDevice(const torch::stable::Tensor&) {}
#else
  explicit OnDevice(const torch::stable::Tensor& x) : guard_(x.get_device_index()) {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
#endif
  cudaStream_t stream() const { return stream_; }

 private:
#if !defined(QSCALE_CUDA_EMULATOR)
  torch::stable::accelerator::DeviceGuard guard_;
#endif
  cudaStream_t stream_ = nullptr;
};

inline void check_launched(const char* op, cudaError_t done) {
  STD_TORCH_CHECK(done == cudaSuccess, op, ": the launch failed: ", cudaGetErrorString(done));
}

// Contiguous, of the shape, dtype and device of x.
inline torch::stable::Tensor uninitialized_like(const torch::stable::Tensor& x) {
  return torch::stable::new_empty(x, x.sizes());
}

}  // namespace qscale::cuda
