// What an instruction set provides, and how callers reach the one in use. No torch.
#pragma once

#include <cstdint>

#include "numerics/codebook.h"
#include "numerics/float_quant.h"
#include "numerics/int_quant.h"

namespace qscale::cpu {

enum class DType { float32, bfloat16, float16 };

// Floating-point elements, and how their scale is chosen.
struct ScaledFloat {
  FloatGrid grid;
  ScaleRule rule;
};

// Rows of `axis` elements, each cut into groups of `group`; the last group of a row may be shorter. Format is one of
// IntGrid, ScaledFloat, Nvfp4 and Codebook.
template <class Format>
struct FakeQuant {
  const void* x;
  void* y;
  int64_t axis;
  int64_t group;
  Format format;
};

// Groups are numbered through all rows; a call does those in [first, last).
template <class Format>
using FakeQuantFn = void (*)(const FakeQuant<Format>& job, int64_t first, int64_t last);

// The largest magnitude of n elements, as its float32 pattern: NaN is above infinity.
using AbsmaxFn = uint32_t (*)(const void* x, int64_t n);

// Each array is indexed by DType.
struct Kernels {
  const char* isa;
  FakeQuantFn<IntGrid> fake_quant_int[3];
  FakeQuantFn<ScaledFloat> fake_quant_float[3];
  FakeQuantFn<Nvfp4> fake_quant_nvfp4[3];
  FakeQuantFn<Codebook> fake_quant_codebook[3];
  AbsmaxFn absmax[3];
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
