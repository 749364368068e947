// hadamard on CPU tensors: what may be asked, threads, and registration. Schemas are in qscale/kernels/hadamard.py.
#include "bindings/hadamard_ops.h"

#include "bindings/rotation.h"
#include "cpu/kernels.h"

namespace {

using namespace qscale;

// The sign bits of `signs`, in words of the dtype, over and over until a tile of small blocks is covered.
template <class Word>
std::vector<Word> flips_of(const Tensor& signs) {
  constexpr int down = 8 * (sizeof(float) - sizeof(Word));
  const float* values = static_cast<const float*>(signs.const_data_ptr());
  const int64_t length = signs.numel();
  const int64_t times = std::max<int64_t>(1, cpu::hadamard_tile / length);
  std::vector<Word> flips(static_cast<size_t>(length * times));
  uint32_t wrong = 0;
  for (int64_t i = 0; i < length; ++i) {
    const uint32_t bits = bits_of(values[i]);
    wrong |= (bits & 0x7fffffffu) ^ 0x3f800000u;
    flips[static_cast<size_t>(i)] = static_cast<Word>((bits & 0x80000000u) >> down);
  }
  STD_TORCH_CHECK(wrong == 0, "hadamard: signs holds a value other than 1 and -1");
  for (int64_t i = length; i < length * times; ++i) {
    flips[static_cast<size_t>(i)] = flips[static_cast<size_t>(i - length)];
  }
  return flips;
}

void run(const Tensor& x, Tensor& y, int64_t block, const std::optional<Tensor>& signs, bool transpose) {
  const Rotation rotation(x, y.mutable_data_ptr(), block, signs, transpose);
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
  check_out("hadamard", x, out);
  const Tensor source = x.is_contiguous() ? x : torch::stable::contiguous(x);
  run(source, out, block, signs, transpose);
}

}  // namespace

qscale::Rotation::Rotation(const Tensor& x, void* y, int64_t block, const std::optional<Tensor>& signs, bool transpose) {
  const DType dtype = dtype_of("hadamard", x);
  const Blocks blocks = blocks_of(x, block, signs);
  size_ = blocks.size;
  if (x.numel() == 0) return;
  blocks_ = x.numel() / size_;
  kernel_ = cpu::hadamard_kernel(static_cast<int>(dtype));
  const float* matrix = nullptr;
  if (blocks.base > 1) {
    const Matrices& kept = matrices().at(blocks.base);
    matrix = transpose ? kept.transposed.data() : kept.forward.data();
  }
  job_ = cpu::Hadamard{x.const_data_ptr(), y,       blocks.base, blocks.inner, matrix, blocks.scale,
                       nullptr,            0,       transpose,   blocks_};
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
