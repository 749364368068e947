// hadamard on CUDA tensors: launches on the caller's stream, without waiting, and registration. What may be asked is in
// hadamard_ops.h.
#include "bindings/cuda_rotation.h"

#include <mutex>
#include <utility>

namespace {

using namespace qscale;
using namespace qscale::cuda;
using cuda::uninitialized_like;

Tensor bytes_like(const Tensor& x, int64_t count) { return torch::stable::new_empty(x, {count}, ScalarType::Byte); }

// The signs of a base matrix, made once and left to the end of the process.
const std::vector<uint32_t>& words_of(int64_t base, bool transpose) {
  static std::mutex one_at_a_time;
  static auto& kept = *new std::map<std::pair<int64_t, bool>, std::vector<uint32_t>>();
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  std::vector<uint32_t>& words = kept[{base, transpose}];
  if (words.empty()) {
    const Matrices& host = matrices().at(base);
    words = sign_words((transpose ? host.transposed : host.forward).data(), base);
  }
  return words;
}

Tensor rotate(const Tensor& x, int64_t block, const std::optional<Tensor>& signs, bool transpose) {
  const Tensor source = in_rows(x);
  Tensor y = uninitialized_like(source);
  const OnDevice device(source);
  CudaRotation(source, y.mutable_data_ptr(), block, signs, transpose, device.stream()).run(device.stream());
  return y;
}

Tensor hadamard_op(const Tensor& x, int64_t block, std::optional<Tensor> signs, bool transpose) {
  return rotate(x, block, signs, transpose);
}

void hadamard_out(const Tensor& x, int64_t block, std::optional<Tensor> signs, bool transpose, Tensor out) {
  check_out("hadamard", x, out);
  const Tensor source = in_rows(x);
  const OnDevice device(source);
  CudaRotation(source, out.mutable_data_ptr(), block, signs, transpose, device.stream()).run(device.stream());
}

}  // namespace

qscale::cuda::CudaRotation::CudaRotation(const Tensor& x, void* y, int64_t block, const std::optional<Tensor>& signs,
                                         bool transpose, cudaStream_t stream)
    : dtype_(dtype_of("hadamard", x)),
      flips_(bytes_like(x, 0)),
      workspace_(bytes_like(x, 0)) {
  const Blocks blocks = blocks_of(x, block, signs);
  if (x.numel() == 0) return;
  job.x = x.const_data_ptr();
  job.y = y;
  job.base = blocks.base;
  job.inner = blocks.inner;
  job.scale = blocks.scale;
  job.flip_after = transpose;
  job.blocks = x.numel() / blocks.size;
  job.axis = blocks.axis;
  job.x_stride = row_stride_of(x);
  if (job.base > 1) job.matrix = words_of(job.base, transpose).data();
  if (signs) {
    const Tensor values = signs->is_contiguous() ? *signs : torch::stable::contiguous(*signs);
    job.period = flips_of_signs(dtype_, values.numel());
    flips_ = bytes_like(x, job.period * (dtype_ == DType::float32 ? 4 : 2));
    job.flips = flips_.const_data_ptr();
    check_launched("hadamard", find_flips(dtype_, static_cast<const float*>(values.const_data_ptr()), values.numel(),
                                          flips_.mutable_data_ptr(), stream));
  }
  const int64_t floats = hadamard_workspace(dtype_, job);
  if (floats > 0) workspace_ = bytes_like(x, floats * static_cast<int64_t>(sizeof(float)));
}

void qscale::cuda::CudaRotation::run(cudaStream_t stream) const {
  if (job.blocks == 0) return;
  float* workspace = static_cast<float*>(workspace_.mutable_data_ptr());
  check_launched("hadamard", cuda::hadamard(dtype_, job, workspace, stream));
}

STABLE_TORCH_LIBRARY_IMPL(qscale, QSCALE_CUDA_KEY, m) {
  m.impl("hadamard", TORCH_BOX(&hadamard_op));
  m.impl("hadamard_forward", TORCH_BOX(&hadamard_op));
  m.impl("hadamard_out", TORCH_BOX(&hadamard_out));
}

// The matrices come from Python as CPU tensors. Those of the CPU library are another op's.
STABLE_TORCH_LIBRARY_IMPL(qscale, CPU, m) { m.impl("keep_cuda_hadamard_matrix", TORCH_BOX(&keep_hadamard_matrix)); }
