// What an instruction set provides, and how callers reach the one in use. No torch.
#pragma once

#include <cstdint>

#include "jobs.h"

namespace qscale::cpu {

// Each call does the groups in [first, last).
template <class Element>
struct GroupKernels {
  using Job = FakeQuant<Element>;
  void (*fake_quant)(const Job& job, int64_t first, int64_t last);
  void (*scales)(const Job& job, int64_t first, int64_t last, float* scale, float* zero_point);
  void (*codes)(const Job& job, int64_t first, int64_t last);
  void (*gradient)(const Job& job, int64_t first, int64_t last, const Gradient& gradient);
};

// The smallest and the largest of n elements; both NaN where there is a NaN.
using RangeFn = void (*)(const void* x, int64_t n, float* low, float* high);
using AbsmaxFn = float (*)(const void* x, int64_t n);
// The groups in [first, last).
using DequantizeFn = void (*)(const Dequantize& job, int64_t first, int64_t last);

// Each array is indexed by DType.
struct Kernels {
  const char* isa;
  GroupKernels<IntGrid> ints[3];
  GroupKernels<FloatGrid> floats[3];
  GroupKernels<Codebook> codebooks[3];
  RangeFn range[3];
  AbsmaxFn absmax[3];
  DequantizeFn dequantize[3];
};

extern const Kernels plain_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
#endif

// The kernels in use: the widest that the machine runs, or the one that QSCALE_ISA or `use_isa` named.
// Both throw std::invalid_argument for a name that this machine cannot run; the message lists those it can.
const Kernels& kernels();
void use_isa(const char* name);  // "auto" undoes the choice

}  // namespace qscale::cpu
