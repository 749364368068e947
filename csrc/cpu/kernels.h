// What an instruction set provides, and how callers reach the one in use. No torch.
#pragma once

#include <cstdint>

#include "numerics/int_quant.h"

namespace qscale::cpu {

enum class DType { float32, bfloat16, float16 };

// Rows of `axis` elements, each cut into groups of `group`; the last group of a row may be shorter.
struct FakeQuantInt {
  const void* x;
  void* y;
  int64_t axis;
  int64_t group;
  IntGrid grid;
};

// Groups are numbered through all rows; a call does those in [first, last).
using FakeQuantIntFn = void (*)(const FakeQuantInt& job, int64_t first, int64_t last);

struct Kernels {
  const char* isa;
  FakeQuantIntFn fake_quant_int[3];  // by DType
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
