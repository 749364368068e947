// What the bindings of all ops share about CPU tensors.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include "jobs.h"

namespace qscale {
namespace {

// Below this many elements a second thread costs more than it saves.
constexpr int64_t kElementsPerThread = 32768;

inline DType dtype_of(const char* op, const torch::stable::Tensor& x) {
  switch (x.scalar_type()) {
    case torch::headeronly::ScalarType::Float:
      return DType::float32;
    case torch::headeronly::ScalarType::BFloat16:
      return DType::bfloat16;
    case torch::headeronly::ScalarType::Half:
      return DType::float16;
    default:
      STD_TORCH_CHECK(false, op, ": x has dtype ", torch::headeronly::toString(x.scalar_type()),
                      "; wanted Float, BFloat16 or Half");
  }
}

// torch::stable::empty_like looks its operator up by name on every call; this costs a third of it.
inline torch::stable::Tensor uninitialized_like(const torch::stable::Tensor& x) {
  AtenTensorHandle y = nullptr;
  int32_t dtype = 0;
  aoti_torch_get_dtype(x.get(), &dtype);
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(x.dim(), x.sizes().data(), x.strides().data(), dtype,
                                                         aoti_torch_device_type_cpu(), 0, &y));
  return torch::stable::Tensor(y);
}

}  // namespace
}  // namespace qscale
