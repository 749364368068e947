// A Hadamard transform of the blocks of a CPU tensor, checked and ready to run.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <vector>

#include "cpu/hadamard_job.h"

namespace qscale {

// Room for one call of the kernel, aligned for its vectors.
class Scratch {
 public:
  explicit Scratch(int64_t floats) : data_(new (kAlignment) float[static_cast<size_t>(floats)]) {}
  float* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(float* p) const { ::operator delete[](p, kAlignment); }
  };
  std::unique_ptr<float[], Free> data_;
};

class Rotation {
 public:
  // x is contiguous. Throws where it has no such blocks, or the signs do not fit.
  Rotation(const torch::stable::Tensor& x, void* y, int64_t block, const std::optional<torch::stable::Tensor>& signs,
           bool transpose);

  int64_t size() const { return size_; }      // elements of a block
  int64_t blocks() const { return blocks_; }  // none for an empty tensor
  Scratch scratch() const { return Scratch(cpu::hadamard_scratch(job_)); }
  void run(int64_t first, int64_t last, const Scratch& scratch) const { kernel_(job_, first, last, scratch.data()); }

 private:
  int64_t size_, blocks_ = 0;
  cpu::Hadamard job_{};
  cpu::HadamardFn kernel_ = nullptr;
  std::vector<uint32_t> flips_;        // the sign bits of the elements,
  std::vector<uint16_t> short_flips_;  // or of 16-bit ones
};

}  // namespace qscale
