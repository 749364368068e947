// hadamard on CPU tensors: what may be asked, threads, and registration. Schemas are in qscale/kernels/hadamard.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <vector>

#include "bindings/rotation.h"
#include "bindings/tensors.h"
#include "cpu/kernels.h"
#include "numerics/host_device.h"

namespace {

using qscale::DType;
using qscale::dtype_of;
using qscale::kElementsPerThread;
using qscale::uninitialized_like;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct Matrices {
  std::vector<float> forward, transposed;
};

// Written while qscale.kernels is imported, read after that.
std::map<int64_t, Matrices>& matrices() {
  static std::map<int64_t, Matrices> kept;
  return kept;
}

void keep_hadamard_matrix(const Tensor& matrix) {
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

// The sign bits of `signs`, in words of the dtype, over and over until a tile of small blocks is covered.
template <class Word>
std::vector<Word> flips_of(const Tensor& signs) {
  constexpr int down = 8 * (sizeof(float) - sizeof(Word));
  const float* values = static_cast<const float*>(signs.const_data_ptr());
  const int64_t length = signs.numel();
  const int64_t times = std::max<int64_t>(1, qscale::cpu::hadamard_tile / length);
  std::vector<Word> flips(static_cast<size_t>(length * times));
  uint32_t wrong = 0;
  for (int64_t i = 0; i < length; ++i) {
    const uint32_t bits = qscale::bits_of(values[i]);
    wrong |= (bits & 0x7fffffffu) ^ 0x3f800000u;
    flips[static_cast<size_t>(i)] = static_cast<Word>((bits & 0x80000000u) >> down);
  }
  STD_TORCH_CHECK(wrong == 0, "hadamard: signs holds a value other than 1 and -1");
  for (int64_t i = length; i < length * times; ++i) {
    flips[static_cast<size_t>(i)] = flips[static_cast<size_t>(i - length)];
  }
  return flips;
}

// The largest power of two that leaves `size` a multiple of an order that there is; 0 where there is none.
int64_t inner_of(int64_t size) {
  const int64_t twos = size & -size, odd = size / twos;
  if (odd == 1) return size;
  return twos >= 4 && matrices().count(4 * odd) != 0 ? twos / 4 : 0;
}

void check_signs(const Tensor& signs, int64_t size, int64_t axis) {
  const int64_t length = signs.dim() == 1 ? signs.numel() : -1;
  STD_TORCH_CHECK(signs.scalar_type() == ScalarType::Float && (length == size || length == axis),
                  "hadamard: signs has dtype ", torch::headeronly::toString(signs.scalar_type()), ", ", signs.dim(),
                  " dimensions and ", signs.numel(), " elements; wanted float32, one dimension, length ", size, " or ",
                  axis);
}

void run(const Tensor& x, Tensor& y, int64_t block, const std::optional<Tensor>& signs, bool transpose) {
  const qscale::Rotation rotation(x, y.mutable_data_ptr(), block, signs, transpose);
  const auto part = [&](int64_t first, int64_t last) { rotation.run(first, last, rotation.scratch()); };
  const int64_t grain = std::max<int64_t>(1, kElementsPerThread / std::max<int64_t>(rotation.size(), 1));
  if (rotation.blocks() == 0) return;
  if (rotation.blocks() <= grain) {
    part(0, rotation.blocks());
  } else {
    torch::stable::parallel_for(0, rotation.blocks(), grain, part);
  }
}

Tensor hadamard(const Tensor& x, int64_t block, std::optional<Tensor> signs, bool transpose) {
  const Tensor source = x.is_contiguous() ? x : torch::stable::contiguous(x);
  Tensor y = uninitialized_like(source);
  run(source, y, block, signs, transpose);
  return y;
}

void hadamard_out(const Tensor& x, int64_t block, std::optional<Tensor> signs, bool transpose, Tensor out) {
  STD_TORCH_CHECK(out.scalar_type() == x.scalar_type() && out.sizes().equals(x.sizes()) && out.is_contiguous(),
                  "hadamard_out: out has dtype ", torch::headeronly::toString(out.scalar_type()), " and ", out.numel(),
                  " elements", out.is_contiguous() ? "" : ", not contiguous",
                  "; wanted a contiguous tensor of x's shape and dtype ",
                  torch::headeronly::toString(x.scalar_type()), ", ", x.numel(), " elements");
  const Tensor source = x.is_contiguous() ? x : torch::stable::contiguous(x);
  run(source, out, block, signs, transpose);
}

}  // namespace

qscale::Rotation::Rotation(const Tensor& x, void* y, int64_t block, const std::optional<Tensor>& signs, bool transpose) {
  const DType dtype = dtype_of("hadamard", x);
  const int64_t axis = x.dim() == 0 ? 1 : x.size(-1);
  size_ = block == -1 ? axis : block;
  STD_TORCH_CHECK(size_ > 0 || (block == -1 && size_ == 0), "hadamard: block=", block,
                  "; wanted at least 1, or -1 for the whole last axis");
  const int64_t inner = size_ == 0 ? 0 : inner_of(size_);
  STD_TORCH_CHECK(size_ == 0 || (inner > 0 && axis % size_ == 0), "hadamard: blocks of ", size_, " on a last axis of ",
                  axis, "; wanted a supported size that divides it");
  if (signs) check_signs(*signs, size_, axis);
  if (x.numel() == 0) return;
  blocks_ = x.numel() / size_;
  kernel_ = cpu::hadamard_kernel(static_cast<int>(dtype));
  const int64_t base = size_ / inner;
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(size_)));
  const float* matrix = nullptr;
  if (base > 1) matrix = transpose ? matrices().at(base).transposed.data() : matrices().at(base).forward.data();
  job_ = cpu::Hadamard{x.const_data_ptr(), y, base, inner, matrix, scale, nullptr, 0, transpose, blocks_};
  if (!signs) return;
  const Tensor values = signs->is_contiguous() ? *signs : torch::stable::contiguous(*signs);
  if (dtype == DType::float32) {
    flips_ = flips_of<uint32_t>(values);
    job_.flips = flips_.data();
    job_.period = static_cast<int64_t>(flips_.size());
  } else {
    short_flips_ = flips_of<uint16_t>(values);
    job_.flips = short_flips_.data();
    job_.period = static_cast<int64_t>(short_flips_.size());
  }
}

STABLE_TORCH_LIBRARY_IMPL(qscale, CPU, m) {
  m.impl("hadamard", TORCH_BOX(&hadamard));
  m.impl("hadamard_forward", TORCH_BOX(&hadamard));
  m.impl("hadamard_out", TORCH_BOX(&hadamard_out));
  m.impl("keep_hadamard_matrix", TORCH_BOX(&keep_hadamard_matrix));
}
