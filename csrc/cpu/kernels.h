// What an instruction set provides, and how callers reach the one in use. No torch.
#pragma once

#include <cstdint>

#include "numerics/gradients.h"
#include "numerics/scaling.h"

namespace qscale::cpu {

enum class DType { float32, bfloat16, float16 };

// Rows of `axis` elements, each cut into groups of `group`; the last group of a row may be shorter. In square blocks,
// `block_rows` rows one below the other have their scales in common: a band, which ends where a matrix ends.
// Groups are numbered along the rows, or along the bands. Every instruction set compiles the functions: always inlined,
// they leave no symbol to share.
struct Layout {
  int64_t axis;
  int64_t group;
  int64_t matrix_rows = 1;
  int64_t block_rows = 1;

  [[gnu::always_inline]] int64_t groups_per_row() const { return (axis + group - 1) / group; }
  [[gnu::always_inline]] int64_t bands_per_matrix() const { return (matrix_rows + block_rows - 1) / block_rows; }
};

// Element is one of IntGrid, FloatGrid and Codebook.
template <class Element>
struct FakeQuant {
  const void* x;
  void* y;  // may be x; for codes, one byte an element
  Layout layout;
  Element element;
  Scaling scaling;
  const float* scale = nullptr;       // one for each group, where the caller gives them,
  const float* zero_point = nullptr;  // and likewise, for elements that have one
  const float* range = nullptr;       // the ends of the whole tensor, which then serve every group
  uint64_t seed = 0;                  // of stochastic rounding
};

struct Gradient {
  const void* grad;    // of y, in its dtype
  void* grad_x;        // likewise
  float* grad_scale;   // one for each group
  float* grad_zero;    // likewise; nullptr where it is not asked for
  Gate gate;
  float trust;  // in units of the scale
};

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

// Each array is indexed by DType.
struct Kernels {
  const char* isa;
  GroupKernels<IntGrid> ints[3];
  GroupKernels<FloatGrid> floats[3];
  GroupKernels<Codebook> codebooks[3];
  RangeFn range[3];
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
