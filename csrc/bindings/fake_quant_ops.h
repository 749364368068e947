// What the fake_quant ops are asked, whatever the device: formats, layouts, and the arguments of the schemas in
// qscale/kernels/ops.py.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "bindings/tensors.h"
#include "jobs.h"

namespace qscale {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kLargestCode = 1 << 20;  // codes and denominators stay exact in float32, with room to round

// What every op is asked beside its element. The numbers of kinds are those of qscale/formats/calls.py.
struct Options {
  int64_t scale_kind;    // as ScaleKind, then the type of x
  int64_t tensor_level;  // 1: a scale of the tensor beside those of the groups
  int64_t group_size;    // -1: the whole last axis
  int64_t block_rows;
  int64_t rounding;
  int64_t seed;
};

constexpr int64_t kScaleOfInput = 8;

inline Rounding rounding_of(const char* op, int64_t rounding) {
  STD_TORCH_CHECK(0 <= rounding && rounding <= 2, op, ": rounding=", rounding,
                  "; wanted 0 (even), 1 (away) or 2 (stochastic)");
  return static_cast<Rounding>(rounding);
}

inline ScaleKind scale_kind_of(const char* op, int64_t kind, DType dtype) {
  STD_TORCH_CHECK(0 <= kind && kind <= kScaleOfInput, op, ": scale_kind=", kind,
                  "; wanted 0 (float32), 1 to 4 (E8M0: floor, ceil, rceil, even), 5 (float16), 6 (bfloat16), 7 (E4M3) "
                  "or 8 (the dtype of x)");
  if (kind != kScaleOfInput) return static_cast<ScaleKind>(kind);
  return dtype == DType::float16    ? ScaleKind::float16
         : dtype == DType::bfloat16 ? ScaleKind::bfloat16
                                    : ScaleKind::float32;
}

inline Layout layout_of(const char* op, const Tensor& x, const Options& options) {
  STD_TORCH_CHECK(options.group_size == -1 || options.group_size > 0, op, ": group_size=", options.group_size,
                  "; wanted at least 1, or -1 for the whole last axis");
  STD_TORCH_CHECK(options.block_rows > 0, op, ": block_rows=", options.block_rows, "; wanted at least 1");
  const int64_t axis = x.dim() == 0 ? 1 : x.size(-1);
  const int64_t group = options.group_size == -1 ? std::max<int64_t>(axis, 1) : std::min(options.group_size, axis);
  Layout layout{axis, std::max<int64_t>(group, 1)};
  if (options.block_rows > 1) {
    layout.matrix_rows = x.dim() < 2 ? 1 : x.size(-2);
    layout.block_rows = std::min(options.block_rows, std::max<int64_t>(layout.matrix_rows, 1));
  }
  return layout;
}

// How many groups a tensor has.
inline int64_t groups_of(const Tensor& x, const Layout& layout) {
  if (x.numel() == 0) return 0;
  return x.numel() / layout.axis / layout.matrix_rows * layout.bands_per_matrix() * layout.groups_per_row();
}

// An element and how its scale follows from a range: what each family of ops is registered for.
struct Ints {
  static constexpr const char* name = "fake_quant_int";
  using Element = IntGrid;
};
struct Floats {
  static constexpr const char* name = "fake_quant_float";
  using Element = FloatGrid;
};
struct Codebooks {
  static constexpr const char* name = "fake_quant_codebook";
  using Element = Codebook;
};

template <class Element>
struct Format {
  Element element;
  float largest;  // what the range of a group stands for in units of its scale
  int top = 0;
  int below_top = 0;
};

inline Format<IntGrid> int_format(const char* op, int64_t qmin, int64_t qmax, double denominator, int64_t zero_point,
                           const Options& options) {
  STD_TORCH_CHECK(-kLargestCode <= qmin && qmin <= 0 && 0 < qmax && qmax <= kLargestCode, op, ": qmin=", qmin,
                  ", qmax=", qmax, "; wanted -2**20 <= qmin <= 0 < qmax <= 2**20");
  STD_TORCH_CHECK(0 < denominator && denominator <= kLargestCode && std::floor(2 * denominator) == 2 * denominator, op,
                  ": denominator=", denominator, "; wanted a multiple of 0.5 up to 2**20");
  STD_TORCH_CHECK(0 <= zero_point && zero_point <= 2, op, ": zero_point=", zero_point,
                  "; wanted 0 (none), 1 (an integer) or 2 (a real number)");
  STD_TORCH_CHECK(options.scale_kind == 0 || options.scale_kind > 2, op, ": scale_kind=", options.scale_kind,
                  "; integers take 0, or 3 to 8");
  const IntGrid grid{static_cast<float>(qmin), static_cast<float>(qmax), static_cast<ZeroPoint>(zero_point),
                     rounding_of(op, options.rounding)};
  return {grid, static_cast<float>(denominator)};
}

inline Format<FloatGrid> float_format(const char* op, int64_t mantissa_bits, int64_t min_exponent, double largest,
                               const Options& options) {
  STD_TORCH_CHECK(0 <= mantissa_bits && mantissa_bits <= 10 && -126 <= min_exponent && min_exponent <= 1, op,
                  ": mantissa_bits=", mantissa_bits, ", min_exponent=", min_exponent, "; wanted 0 to 10 and -126 to 1");
  const FloatGrid exact{static_cast<int>(mantissa_bits), static_cast<int>(min_exponent), static_cast<float>(largest)};
  STD_TORCH_CHECK(exact.largest >= 1.0f && is_finite(exact.largest) && static_cast<double>(exact.largest) == largest &&
                      round_to_grid(exact.largest, exact) == exact.largest,
                  op, ": largest=", largest, "; wanted a value of the format, 1 or above");
  FloatGrid grid = exact;
  grid.rounding = rounding_of(op, options.rounding);
  const int top = floor_log2(grid.largest);
  return {grid, grid.largest, top, top - std::max(top, grid.min_exponent) + grid.mantissa_bits};
}

inline Format<Codebook> codebook_format(const char* op, int64_t index, const Options& options) {
  STD_TORCH_CHECK(0 <= index && index < kCodebookCount, op, ": codebook=", index, "; wanted 0 to ", kCodebookCount - 1);
  STD_TORCH_CHECK(options.rounding == 0, op, ": rounding=", options.rounding, "; codebooks take 0");
  STD_TORCH_CHECK(options.scale_kind == 0 || options.scale_kind > 2, op, ": scale_kind=", options.scale_kind,
                  "; codebooks take 0, or 3 to 8");
  return {codebook(index), 1.0f};
}

template <class Element>
FakeQuant<Element> job_of(const char* op, const Tensor& x, const Format<Element>& format, const Options& options) {
  STD_TORCH_CHECK(options.tensor_level == 0 || (options.tensor_level == 1 && options.scale_kind == 7), op,
                  ": tensor_level=", options.tensor_level, "; wanted 0, or 1 beside scale_kind=7 (E4M3)");
  const DType dtype = dtype_of(op, x);
  FakeQuant<Element> job{x.const_data_ptr(), nullptr, layout_of(op, x, options), format.element,
                         Scaling{scale_kind_of(op, options.scale_kind, dtype), format.largest}};
  job.scaling.top = format.top;
  job.scaling.below_top = format.below_top;
  job.seed = static_cast<uint64_t>(options.seed);
  return job;
}

inline Tensor as_contiguous(const Tensor& x) { return x.is_contiguous() ? x : torch::stable::contiguous(x); }

inline Tensor floats_like(const Tensor& x, std::initializer_list<int64_t> sizes) {
  return torch::stable::new_empty(x, sizes, ScalarType::Float);
}

// Of codes, a byte each or two to a byte.
inline Tensor bytes_for(const Tensor& x, bool packed) {
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  if (!sizes.empty()) sizes.back() = code_bytes(sizes.back(), packed);
  return torch::stable::new_empty(x, sizes, ScalarType::Byte);
}

inline void check_gradient(const char* op, const Tensor& grad, const Tensor& x, int64_t gate) {
  STD_TORCH_CHECK(0 <= gate && gate <= 3, op, ": gate=", gate,
                  "; wanted 0 (open), 1 (clipped), 2 (lsq) or 3 (trust)");
  STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type() && grad.sizes().equals(x.sizes()), op,
                  ": the gradient has another shape or dtype than x");
}

}  // namespace
}  // namespace qscale

// The arguments of each family, spelled once: its element's own, then the options of all.
#define QSCALE_OPTIONS                                                                                          \
  int64_t scale_kind, int64_t tensor_level, int64_t group_size, int64_t block_rows, int64_t rounding, int64_t seed
#define QSCALE_OPTIONS_NAMED \
  Options { scale_kind, tensor_level, group_size, block_rows, rounding, seed }
#define QSCALE_INT int64_t qmin, int64_t qmax, double denominator, int64_t zero_kind, QSCALE_OPTIONS
#define QSCALE_INT_FORMAT \
  int_format(Ints::name, qmin, qmax, denominator, zero_kind, QSCALE_OPTIONS_NAMED), QSCALE_OPTIONS_NAMED
#define QSCALE_FLOAT int64_t mantissa_bits, int64_t min_exponent, double largest, QSCALE_OPTIONS
#define QSCALE_FLOAT_FORMAT \
  float_format(Floats::name, mantissa_bits, min_exponent, largest, QSCALE_OPTIONS_NAMED), QSCALE_OPTIONS_NAMED
#define QSCALE_CODEBOOK int64_t index, QSCALE_OPTIONS
#define QSCALE_CODEBOOK_FORMAT codebook_format(Codebooks::name, index, QSCALE_OPTIONS_NAMED), QSCALE_OPTIONS_NAMED

#define QSCALE_FAMILY(Family, NAME, ARGUMENTS, FORMAT)                                                                 \
  Tensor NAME(const Tensor& x, ARGUMENTS) { return fake_quant<Family>(x, FORMAT); }                                    \
  void NAME##_out(const Tensor& x, ARGUMENTS, Tensor out) { fake_quant_out<Family>(x, FORMAT, out); }                  \
  Tensor NAME##_rotated(const Tensor& x, int64_t block, std::optional<Tensor> signs, ARGUMENTS) {                      \
    return rotated<Family>(x, block, signs, FORMAT);                                                                   \
  }                                                                                                                    \
  std::tuple<Tensor, Tensor, Tensor> NAME##_scales(const Tensor& x, ARGUMENTS) { return scales<Family>(x, FORMAT); }   \
  Tensor NAME##_given(const Tensor& x, const Tensor& scale, std::optional<Tensor> zero_point, ARGUMENTS) {             \
    return given<Family>(x, scale, zero_point, FORMAT);                                                                \
  }                                                                                                                    \
  Tensor NAME##_codes(const Tensor& x, const Tensor& scale, std::optional<Tensor> zero_point, bool packed, ARGUMENTS) { \
    return codes<Family>(x, scale, zero_point, packed, FORMAT);                                                        \
  }                                                                                                                    \
  std::tuple<Tensor, Tensor, Tensor> NAME##_gradient(const Tensor& grad, const Tensor& x, const Tensor& scale,         \
                                                     std::optional<Tensor> zero_point, int64_t gate, double trust,     \
                                                     ARGUMENTS) {                                                      \
    return gradient<Family>(grad, x, scale, zero_point, gate, trust, FORMAT);                                          \
  }

#define QSCALE_REGISTER(NAME)                           \
  m.impl(#NAME, TORCH_BOX(&NAME));                      \
  m.impl(#NAME "_forward", TORCH_BOX(&NAME));           \
  m.impl(#NAME "_out", TORCH_BOX(&NAME##_out));         \
  m.impl(#NAME "_rotated", TORCH_BOX(&NAME##_rotated)); \
  m.impl(#NAME "_scales", TORCH_BOX(&NAME##_scales));   \
  m.impl(#NAME "_given", TORCH_BOX(&NAME##_given));     \
  m.impl(#NAME "_codes", TORCH_BOX(&NAME##_codes));     \
  m.impl(#NAME "_gradient", TORCH_BOX(&NAME##_gradient))
