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

// Elements from a row to the next where all rows, whatever dimensions count them, are as far apart; 0 where they are
// not, or where the elements of a row have gaps.
inline int64_t row_stride_of(const torch::stable::Tensor& x) {
  const int64_t dimensions = x.dim();
  if (x.is_contiguous()) return dimensions == 0 ? 1 : x.size(dimensions - 1);
  if (dimensions < 2 || x.stride(dimensions - 1) != 1) return 0;
  const int64_t stride = x.stride(dimensions - 2);
  int64_t wanted = stride * x.size(dimensions - 2);
  for (int64_t d = dimensions - 3; d >= 0; wanted *= x.size(d), --d) {
    if (x.size(d) != 1 && x.stride(d) != wanted) return 0;
  }
  return stride >= x.size(dimensions - 1) ? stride : 0;
}

inline torch::stable::Tensor in_rows(const torch::stable::Tensor& x) {
  return row_stride_of(x) > 0 ? x : torch::stable::contiguous(x);
}

}  // namespace qscale::cuda
