// The fake_quant ops on CPU tensors: what may be asked, threads, and registration. Schemas are in
// qscale/kernels/ops.py, and qscale/kernels/reference.py makes the same demands.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <numeric>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/rotation.h"
#include "bindings/tensors.h"
#include "cpu/kernels.h"

namespace {

using namespace qscale;
using cpu::DType;
using cpu::FakeQuant;
using cpu::Gradient;
using cpu::GroupKernels;
using cpu::Layout;
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

Rounding rounding_of(const char* op, int64_t rounding) {
  STD_TORCH_CHECK(0 <= rounding && rounding <= 2, op, ": rounding=", rounding,
                  "; wanted 0 (even), 1 (away) or 2 (stochastic)");
  return static_cast<Rounding>(rounding);
}

ScaleKind scale_kind_of(const char* op, int64_t kind, DType dtype) {
  STD_TORCH_CHECK(0 <= kind && kind <= kScaleOfInput, op, ": scale_kind=", kind,
                  "; wanted 0 (float32), 1 to 4 (E8M0: floor, ceil, rceil, even), 5 (float16), 6 (bfloat16), 7 (E4M3) "
                  "or 8 (the dtype of x)");
  if (kind != kScaleOfInput) return static_cast<ScaleKind>(kind);
  return dtype == DType::float16    ? ScaleKind::float16
         : dtype == DType::bfloat16 ? ScaleKind::bfloat16
                                    : ScaleKind::float32;
}

Layout layout_of(const char* op, const Tensor& x, const Options& options) {
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
int64_t groups_of(const Tensor& x, const Layout& layout) {
  if (x.numel() == 0) return 0;
  return x.numel() / layout.axis / layout.matrix_rows * layout.bands_per_matrix() * layout.groups_per_row();
}

// Where rows are whole groups, nothing is lost by taking them as one: tiles may then run on from row to row.
Layout without_rows(const Layout& layout, int64_t count) {
  const bool whole = layout.block_rows == 1 && layout.axis % layout.group == 0;
  return whole ? Layout{count, layout.group} : layout;
}

template <class Run>
void over_groups(int64_t groups, int64_t elements_each, const Run& run) {
  const int64_t grain = std::max<int64_t>(1, kElementsPerThread / elements_each);
  if (groups <= grain) {
    run(0, groups);
  } else {
    torch::stable::parallel_for(0, groups, grain, run);
  }
}

struct Range {
  float ends[2];
};

Range range_of(const Tensor& x, DType dtype) {
  const auto run = cpu::kernels().range[static_cast<int>(dtype)];
  const char* data = static_cast<const char*>(x.const_data_ptr());
  const int64_t size = dtype == DType::float32 ? 4 : 2;
  Range all{};
  run(data, 1, all.ends, all.ends + 1);
  std::mutex one_at_a_time;
  const auto part = [&](int64_t first, int64_t last) {
    Range found{};
    run(data + first * size, last - first, found.ends, found.ends + 1);
    const std::lock_guard<std::mutex> lock(one_at_a_time);
    const bool has_nan = is_nan(found.ends[0]) || is_nan(all.ends[0]);
    all.ends[0] = has_nan ? quiet_nan() : std::min(all.ends[0], found.ends[0]);
    all.ends[1] = has_nan ? quiet_nan() : std::max(all.ends[1], found.ends[1]);
  };
  over_groups(x.numel(), 1, part);
  return all;
}

float absmax_of(const Tensor& x, DType dtype) {
  const auto run = cpu::kernels().absmax[static_cast<int>(dtype)];
  const char* data = static_cast<const char*>(x.const_data_ptr());
  const int64_t size = dtype == DType::float32 ? 4 : 2;
  std::atomic<uint32_t> largest{0};  // patterns of magnitudes are ordered as they are, a NaN above infinity
  const auto part = [&](int64_t first, int64_t last) {
    const uint32_t found = bits_of(run(data + first * size, last - first));
    uint32_t seen = largest.load(std::memory_order_relaxed);
    while (found > seen && !largest.compare_exchange_weak(seen, found, std::memory_order_relaxed)) {
    }
  };
  over_groups(x.numel(), 1, part);
  return float_of(largest.load());
}

// An element and how its scale follows from a range: what each family of ops is registered for.
struct Ints {
  static constexpr const char* name = "fake_quant_int";
  using Element = IntGrid;
  static const GroupKernels<IntGrid>* kernels() { return cpu::kernels().ints; }
};
struct Floats {
  static constexpr const char* name = "fake_quant_float";
  using Element = FloatGrid;
  static const GroupKernels<FloatGrid>* kernels() { return cpu::kernels().floats; }
};
struct Codebooks {
  static constexpr const char* name = "fake_quant_codebook";
  using Element = Codebook;
  static const GroupKernels<Codebook>* kernels() { return cpu::kernels().codebooks; }
};

template <class Element>
struct Format {
  Element element;
  float largest;  // what the range of a group stands for in units of its scale
  int top = 0;
  int below_top = 0;
};

Format<IntGrid> int_format(const char* op, int64_t qmin, int64_t qmax, double denominator, int64_t zero_point,
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

Format<FloatGrid> float_format(const char* op, int64_t mantissa_bits, int64_t min_exponent, double largest,
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

Format<Codebook> codebook_format(const char* op, int64_t index, const Options& options) {
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

Tensor as_contiguous(const Tensor& x) { return x.is_contiguous() ? x : torch::stable::contiguous(x); }

Tensor floats_like(const Tensor& x, std::initializer_list<int64_t> sizes) {
  return torch::stable::new_empty(x, sizes, ScalarType::Float);
}

template <class Family>
void run(const Tensor& x, void* y, const Format<typename Family::Element>& format, const Options& options) {
  auto job = job_of(Family::name, x, format, options);
  const int64_t count = x.numel();
  if (count == 0) return;
  const DType dtype = dtype_of(Family::name, x);
  job.y = y;
  int64_t groups = groups_of(x, job.layout);
  Range whole{};
  if (options.tensor_level == 1) job.scaling.tensor_scale = tensor_scale_of(absmax_of(x, dtype), format.largest);
  job.layout = without_rows(job.layout, count);
  if (groups == 1 && count > kElementsPerThread) {  // too few for the threads: the range first, then pieces of any size
    whole = range_of(x, dtype);
    job.range = whole.ends;
    job.layout = Layout{count, 4096};
    groups = job.layout.groups_per_row();
  }
  const auto work = Family::kernels()[static_cast<int>(dtype)].fake_quant;
  over_groups(groups, job.layout.group * job.layout.block_rows,
              [&](int64_t first, int64_t last) { work(job, first, last); });
}

template <class Family>
Tensor fake_quant(const Tensor& x, const Format<typename Family::Element>& format, const Options& options) {
  dtype_of(Family::name, x);
  const Tensor source = as_contiguous(x);
  Tensor y = uninitialized_like(source);
  run<Family>(source, y.mutable_data_ptr(), format, options);
  return y;
}

template <class Family>
void fake_quant_out(const Tensor& x, const Format<typename Family::Element>& format, const Options& options,
                    Tensor& out) {
  dtype_of(Family::name, x);
  STD_TORCH_CHECK(out.scalar_type() == x.scalar_type() && out.sizes().equals(x.sizes()) && out.is_contiguous(),
                  Family::name, "_out: out has dtype ", torch::headeronly::toString(out.scalar_type()), " and ",
                  out.numel(), " elements", out.is_contiguous() ? "" : ", not contiguous",
                  "; wanted a contiguous tensor of x's shape and dtype ",
                  torch::headeronly::toString(x.scalar_type()), ", ", x.numel(), " elements");
  run<Family>(as_contiguous(x), out.mutable_data_ptr(), format, options);
}

// Rotated and then quantized in place, some 4096 elements at a time, while they are in the first cache. Formats that ask
// first for the range of more than a row are done one after the other.
template <class Family>
Tensor rotated(const Tensor& x, int64_t block, const std::optional<Tensor>& signs,
               const Format<typename Family::Element>& format, const Options& options) {
  constexpr int64_t kAtOnce = 4096;
  dtype_of(Family::name, x);
  const Tensor source = as_contiguous(x);
  Tensor y = uninitialized_like(source);
  const Rotation rotation(source, y.mutable_data_ptr(), block, signs, false);
  auto job = job_of(Family::name, y, format, options);
  const int64_t count = x.numel();
  if (count == 0) return y;
  const Layout layout = without_rows(job.layout, count);
  const int64_t axis = job.layout.axis, group = layout.group;
  // A piece is whole blocks and whole groups: rows, where a row ends with a part of a group.
  const int64_t piece = axis % group == 0 ? std::lcm(rotation.size(), group) : axis;
  const int64_t elements = std::max<int64_t>(1, kAtOnce / piece) * piece;
  const bool alone = options.tensor_level == 1 || layout.block_rows > 1;
  if (alone || elements > 16 * kAtOnce) {
    over_groups(rotation.blocks(), rotation.size(),
                [&](int64_t first, int64_t last) { rotation.run(first, last, rotation.scratch()); });
    run<Family>(y, y.mutable_data_ptr(), format, options);
    return y;
  }
  job.layout = layout;
  job.y = y.mutable_data_ptr();
  const auto work = Family::kernels()[static_cast<int>(dtype_of(Family::name, x))].fake_quant;
  const int64_t groups_in_piece = axis % group == 0 ? piece / group : layout.groups_per_row();
  over_groups(count / piece, piece, [&](int64_t first, int64_t last) {
    const Scratch scratch = rotation.scratch();
    const int64_t step = elements / piece;
    for (int64_t at = first; at < last; at += step) {
      const int64_t end = std::min(at + step, last);
      rotation.run(at * piece / rotation.size(), end * piece / rotation.size(), scratch);
      work(job, at * groups_in_piece, end * groups_in_piece);
    }
  });
  return y;
}

// Scales, zero points and the scale of the tensor; scales are without that of the tensor.
template <class Family>
std::tuple<Tensor, Tensor, Tensor> scales(const Tensor& x, const Format<typename Family::Element>& format,
                                          const Options& options) {
  const Tensor source = as_contiguous(x);
  auto job = job_of(Family::name, source, format, options);
  const int64_t groups = groups_of(source, job.layout);
  Tensor scale = floats_like(x, {groups}), zero = floats_like(x, {groups}), level = floats_like(x, {1});
  float tensor_scale = 1.0f;
  if (groups > 0) {
    const DType dtype = dtype_of(Family::name, x);
    if (options.tensor_level == 1) {
      tensor_scale = tensor_scale_of(absmax_of(source, dtype), format.largest);
    }
    job.scaling.tensor_scale = tensor_scale;
    job.layout = without_rows(job.layout, source.numel());
    const auto work = Family::kernels()[static_cast<int>(dtype)].scales;
    float* scale_data = static_cast<float*>(scale.mutable_data_ptr());
    float* zero_data = static_cast<float*>(zero.mutable_data_ptr());
    over_groups(groups, job.layout.group * job.layout.block_rows,
                [&](int64_t first, int64_t last) { work(job, first, last, scale_data, zero_data); });
  }
  *static_cast<float*>(level.mutable_data_ptr()) = tensor_scale;
  return {scale, zero, level};
}

// Scales or zero points of the caller, one for each group: fewer are repeated, as those are that all rows have in common.
struct PerGroup {
  const float* data = nullptr;
  std::vector<float> repeated;

  PerGroup(const char* op, const char* what, const Tensor& t, int64_t groups) {
    const int64_t count = t.numel();
    const bool fits = count == groups || (count > 0 && groups % count == 0);
    STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float && fits && t.is_contiguous(), op, ": ", what, " has dtype ",
                    torch::headeronly::toString(t.scalar_type()), " and ", count,
                    " elements; wanted contiguous float32, one for each of ", groups, " groups, or a divisor of that");
    data = static_cast<const float*>(t.const_data_ptr());
    if (count == groups) return;
    repeated.resize(static_cast<size_t>(groups));
    for (int64_t at = 0; at < groups; at += count) std::copy_n(data, count, repeated.data() + at);
    data = repeated.data();
  }
};

// A job under scales that are there already; it points into them.
template <class Family>
struct Given {
  FakeQuant<typename Family::Element> job;
  int64_t groups;
  PerGroup scale;
  std::optional<PerGroup> zero_point;

  Given(const Tensor& x, const Tensor& scales, const std::optional<Tensor>& zero_points,
        const Format<typename Family::Element>& format, const Options& options)
      : job(job_of(Family::name, x, format, options)),
        groups(groups_of(x, job.layout)),
        scale(Family::name, "scale", scales, groups) {
    job.scale = scale.data;
    if (zero_points) job.zero_point = zero_point.emplace(Family::name, "zero_point", *zero_points, groups).data;
    job.layout = without_rows(job.layout, x.numel());
  }
  Given(const Given&) = delete;

  template <class Run>
  void over(const Run& run) const {
    over_groups(groups, job.layout.group * job.layout.block_rows, run);
  }
};

template <class Family>
Tensor given(const Tensor& x, const Tensor& scale, const std::optional<Tensor>& zero_point,
             const Format<typename Family::Element>& format, const Options& options) {
  const Tensor source = as_contiguous(x);
  Given<Family> given(source, scale, zero_point, format, options);
  Tensor y = uninitialized_like(source);
  given.job.y = y.mutable_data_ptr();
  const auto work = Family::kernels()[static_cast<int>(dtype_of(Family::name, x))].fake_quant;
  given.over([&](int64_t first, int64_t last) { work(given.job, first, last); });
  return y;
}

template <class Family>
Tensor codes(const Tensor& x, const Tensor& scale, const std::optional<Tensor>& zero_point,
             const Format<typename Family::Element>& format, const Options& options) {
  const Tensor source = as_contiguous(x);
  Given<Family> given(source, scale, zero_point, format, options);
  Tensor y = torch::stable::new_empty(source, source.sizes(), ScalarType::Byte);
  given.job.y = y.mutable_data_ptr();
  const auto work = Family::kernels()[static_cast<int>(dtype_of(Family::name, x))].codes;
  given.over([&](int64_t first, int64_t last) { work(given.job, first, last); });
  return y;
}

template <class Family>
std::tuple<Tensor, Tensor, Tensor> gradient(const Tensor& grad, const Tensor& x, const Tensor& scale,
                                            const std::optional<Tensor>& zero_point, int64_t gate, double trust,
                                            const Format<typename Family::Element>& format, const Options& options) {
  STD_TORCH_CHECK(0 <= gate && gate <= 3, Family::name, ": gate=", gate,
                  "; wanted 0 (open), 1 (clipped), 2 (lsq) or 3 (trust)");
  STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type() && grad.sizes().equals(x.sizes()), Family::name,
                  ": the gradient has another shape or dtype than x");
  const Tensor source = as_contiguous(x), upstream = as_contiguous(grad);
  const Given<Family> given(source, scale, zero_point, format, options);
  Tensor grad_x = uninitialized_like(source), grad_scale = floats_like(x, {given.groups});
  Tensor grad_zero = floats_like(x, {zero_point ? given.groups : 0});
  const Gradient out{upstream.const_data_ptr(),
                     grad_x.mutable_data_ptr(),
                     static_cast<float*>(grad_scale.mutable_data_ptr()),
                     zero_point ? static_cast<float*>(grad_zero.mutable_data_ptr()) : nullptr,
                     static_cast<Gate>(gate),
                     static_cast<float>(trust)};
  const auto work = Family::kernels()[static_cast<int>(dtype_of(Family::name, x))].gradient;
  given.over([&](int64_t first, int64_t last) { work(given.job, first, last, out); });
  return {grad_x, grad_scale, grad_zero};
}

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
  Tensor NAME##_codes(const Tensor& x, const Tensor& scale, std::optional<Tensor> zero_point, ARGUMENTS) {             \
    return codes<Family>(x, scale, zero_point, FORMAT);                                                                \
  }                                                                                                                    \
  std::tuple<Tensor, Tensor, Tensor> NAME##_gradient(const Tensor& grad, const Tensor& x, const Tensor& scale,         \
                                                     std::optional<Tensor> zero_point, int64_t gate, double trust,     \
                                                     ARGUMENTS) {                                                      \
    return gradient<Family>(grad, x, scale, zero_point, gate, trust, FORMAT);                                          \
  }

QSCALE_FAMILY(Ints, fake_quant_int, QSCALE_INT, QSCALE_INT_FORMAT)
QSCALE_FAMILY(Floats, fake_quant_float, QSCALE_FLOAT, QSCALE_FLOAT_FORMAT)
QSCALE_FAMILY(Codebooks, fake_quant_codebook, QSCALE_CODEBOOK, QSCALE_CODEBOOK_FORMAT)

std::string cpu_isa() { return qscale::cpu::kernels().isa; }

void use_cpu_isa(std::string name) { qscale::cpu::use_isa(name.c_str()); }

}  // namespace

#define QSCALE_REGISTER(NAME)                           \
  m.impl(#NAME, TORCH_BOX(&NAME));                      \
  m.impl(#NAME "_forward", TORCH_BOX(&NAME));           \
  m.impl(#NAME "_out", TORCH_BOX(&NAME##_out));         \
  m.impl(#NAME "_rotated", TORCH_BOX(&NAME##_rotated)); \
  m.impl(#NAME "_scales", TORCH_BOX(&NAME##_scales));   \
  m.impl(#NAME "_given", TORCH_BOX(&NAME##_given));     \
  m.impl(#NAME "_codes", TORCH_BOX(&NAME##_codes));     \
  m.impl(#NAME "_gradient", TORCH_BOX(&NAME##_gradient))

STABLE_TORCH_LIBRARY_IMPL(qscale, CPU, m) {
  QSCALE_REGISTER(fake_quant_int);
  QSCALE_REGISTER(fake_quant_float);
  QSCALE_REGISTER(fake_quant_codebook);
}

// No tensor argument, so no device to dispatch on.
STABLE_TORCH_LIBRARY_IMPL(qscale, CompositeExplicitAutograd, m) {
  m.impl("cpu_isa", TORCH_BOX(&cpu_isa));
  m.impl("use_cpu_isa", TORCH_BOX(&use_cpu_isa));
}
