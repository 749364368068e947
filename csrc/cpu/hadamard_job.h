// What a Hadamard kernel is asked, and the kernels of each instruction set. No torch.
#pragma once

#include <cstdint>

namespace qscale::cpu {

// Consecutive blocks of n = base * inner elements, inner a power of two: y = scale * (H_base (x) Sylvester_inner) x.
// The bits depend on the order of operations alone, which qscale/kernels/hadamard_reference.py defines.
struct Hadamard {
  const void* x;
  void* y;  // may be x
  int64_t base;
  int64_t inner;
  const float* matrix;  // base x base of +-1, row after row; unused where base is 1
  float scale;
  const void* flips;  // sign bits of x's dtype, to be XORed onto the elements, or null
  int64_t period;     // of flips: a multiple of the block
  bool flip_after;    // the transpose flips what it writes
  int64_t blocks = 0;  // of x in all: the one that follows a call's last is fetched ahead
};

// Does blocks [first, last). `scratch`: hadamard_scratch floats, aligned to 64 bytes. A call costs little beside its
// blocks: a tile of rows may be done at a time, and worked on while it is in cache.
using HadamardFn = void (*)(const Hadamard& job, int64_t first, int64_t last, float* scratch);

// Blocks whose inner part is narrower than a pair of vectors are taken this many at a time.
constexpr int64_t hadamard_lanes = 32;
// Elements that are flipped at a time, or one block where that is longer.
constexpr int64_t hadamard_tile = 1024;

inline int64_t hadamard_scratch(const Hadamard& job) {
  const int64_t n = job.base * job.inner, tile = n > hadamard_tile ? n : hadamard_tile;
  const int64_t strip = job.base > 1 ? job.base * hadamard_lanes : 0;
  const bool narrow = job.base > 1 && job.inner < hadamard_lanes;
  return (narrow ? 2 * n * hadamard_lanes : n) + strip + (job.flips != nullptr ? tile : 0);
}

// By DType.
extern const HadamardFn plain_hadamard_kernels[3];
#if defined(__x86_64__)
extern const HadamardFn avx2_hadamard_kernels[3];
extern const HadamardFn avx512_hadamard_kernels[3];
#endif

// That of the instruction set in use, which kernels.h chooses.
HadamardFn hadamard_kernel(int dtype);

}  // namespace qscale::cpu
