// What the fake-quant kernels of every device are asked. No torch.
#pragma once

#include <cstdint>

#include "numerics/gradients.h"
#include "numerics/scaling.h"

namespace qscale {

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

  QSCALE_HD_MEMBER int64_t groups_per_row() const { return (axis + group - 1) / group; }
  QSCALE_HD_MEMBER int64_t bands_per_matrix() const { return (matrix_rows + block_rows - 1) / block_rows; }
};

// Element is one of IntGrid, FloatGrid and Codebook; on CUDA also a rule of another library, with scales of its own.
template <class Element>
struct FakeQuant {
  const void* x;
  void* y;  // may be x; for codes, bytes
  Layout layout;
  Element element;
  Scaling scaling;
  const float* scale = nullptr;       // one for each group, where the caller gives them,
  const float* zero_point = nullptr;  // and likewise, for elements that have one
  const float* range = nullptr;       // the ends of the whole tensor, which then serve every group
  uint64_t seed = 0;                  // of stochastic rounding
  bool packed = false;                // two codes to a byte, the first in the lower half; each row begins one
};

// Codes under scales, and the values that they stand for.
struct Dequantize {
  const uint8_t* codes;  // packed as above, where the table has few values
  void* y;
  Layout layout;
  const float* table;  // by code, in units of the scale: kFewCodes values, or one for each byte
  bool packed;
  const float* scale;
  const float* zero_point = nullptr;  // as they are subtracted

  static constexpr int64_t kFewCodes = 16, kAllCodes = 256;
};

QSCALE_HD int64_t code_bytes(int64_t axis, bool packed) { return packed ? (axis + 1) / 2 : axis; }

struct Gradient {
  const void* grad;    // of y, in its dtype
  void* grad_x;        // likewise
  float* grad_scale;   // one for each group
  float* grad_zero;    // likewise; nullptr where it is not asked for
  Gate gate;
  float trust;  // in units of the scale
};

}  // namespace qscale
