// What the hadamard ops are asked, whatever the device. Schemas are in qscale/kernels/hadamard.py.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cmath>
#include <map>
#include <optional>
#include <vector>

#include "bindings/tensors.h"
#include "numerics/host_device.h"

namespace qscale {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct Matrices {
  std::vector<float> forward, transposed;
};

// Written while qscale.kernels is imported, read after that.
inline std::map<int64_t, Matrices>& matrices() {
  static std::map<int64_t, Matrices> kept;
  return kept;
}

inline void keep_hadamard_matrix(const Tensor& matrix) {
  const int64_t order = matrix.dim() == 2 ? matrix.size(0) : 0;
  STD_TORCH_CHECK(order > 0 && matrix.size(1) == order && matrix.is_contiguous() &&
                      matrix.scalar_type() == ScalarType::Float,
                  "keep_hadamard_matrix: wanted a square contiguous Float matrix");
  const float* rows = static_cast<const float*>(matrix.const_data_ptr());
  Matrices made;
  for (int64_t i = 0; i < order * order; ++i) {
    made.forward.push_back(rows[i]);
    made.transposed.push_back(rows[i % order * order + i / order]);
  }
  matrices().emplace(order, std::move(made));
}

// The largest power of two that leaves `size` a multiple of an order that there is; 0 where there is none.
inline int64_t inner_of(int64_t size) {
  const int64_t twos = size & -size, odd = size / twos;
  if (odd == 1) return size;
  return twos >= 4 && matrices().count(4 * odd) != 0 ? twos / 4 : 0;
}

inline void check_signs(const Tensor& signs, int64_t size, int64_t axis) {
  const int64_t length = signs.dim() == 1 ? signs.numel() : -1;
  STD_TORCH_CHECK(signs.scalar_type() == ScalarType::Float && (length == size || length == axis),
                  "hadamard: signs has dtype ", torch::headeronly::toString(signs.scalar_type()), ", ", signs.dim(),
                  " dimensions and ", signs.numel(), " elements; wanted float32, one dimension, length ", size, " or ",
                  axis);
}

// The blocks of the last axis of a tensor: each of base * inner elements, or none where the axis is empty.
struct Blocks {
  int64_t axis, size, base, inner;
  float scale;
};

inline Blocks blocks_of(const Tensor& x, int64_t block, const std::optional<Tensor>& signs) {
  const int64_t axis = x.dim() == 0 ? 1 : x.size(-1);
  const int64_t size = block == -1 ? axis : block;
  STD_TORCH_CHECK(size > 0 || (block == -1 && size == 0), "hadamard: block=", block,
                  "; wanted at least 1, or -1 for the whole last axis");
  const int64_t inner = size == 0 ? 0 : inner_of(size);
  STD_TORCH_CHECK(size == 0 || (inner > 0 && axis % size == 0), "hadamard: blocks of ", size, " on a last axis of ",
                  axis, "; wanted a supported size that divides it");
  if (signs) check_signs(*signs, size, axis);
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(size)));
  return {axis, size, size == 0 ? 0 : size / inner, inner, scale};
}

}  // namespace
}  // namespace qscale
