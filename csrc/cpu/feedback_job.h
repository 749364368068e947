// What a kernel that rounds columns with error feedback is asked, and the kernels of each instruction set. No torch.
#pragma once

#include <cstdint>

#include "numerics/codebook.h"
#include "numerics/float_quant.h"
#include "numerics/int_quant.h"

namespace qscale::cpu {

// A strip of columns of a weight, each in one piece: element r of column i is at i * rows + r. From left to right
//   v = x_i - e_0 u_0i - e_1 u_1i - ...   in this order, in double,
//   y_i = v as a float, in and out of the format under its scale,
//   e_i = (v - y_i) / u_ii.
// The bits depend on the order of operations alone, which qscale/kernels/reference.py defines.
template <class Element>
struct Feedback {
  const double* x;
  float* y;
  double* errors;
  const double* factor;  // columns x columns, row after row; what is below the diagonal is not read
  const float* scale;    // one for each element
  const float* zero_point;  // likewise, or null
  int64_t columns;
  int64_t rows;
  Element element;
};

// Rows that are done at a time: none needs another.
constexpr int64_t feedback_rows = 64;

// Does rows [first, last). `scratch`: columns * feedback_rows doubles.
template <class Element>
using FeedbackFn = void (*)(const Feedback<Element>& job, int64_t first, int64_t last, double* scratch);

struct FeedbackKernels {
  FeedbackFn<IntGrid> ints;
  FeedbackFn<FloatGrid> floats;
  FeedbackFn<Codebook> codebooks;
};

extern const FeedbackKernels plain_feedback_kernels;
#if defined(__x86_64__)
extern const FeedbackKernels avx2_feedback_kernels;
extern const FeedbackKernels avx512_feedback_kernels;
#endif

// Those of the instruction set in use, which kernels.h chooses.
const FeedbackKernels& feedback_kernels();

}  // namespace qscale::cpu
