// Rounding with error feedback on CPU tensors: what may be asked, threads, and registration. Schemas are in
// qscale/kernels/ops.py, and qscale/kernels/reference.py makes the same demands.
#include "bindings/cpu_groups.h"
#include "cpu/feedback_job.h"

namespace {

using namespace qscale;
using cpu::feedback_rows;

cpu::FeedbackFn<IntGrid> kernel_of(Ints) { return cpu::feedback_kernels().ints; }
cpu::FeedbackFn<FloatGrid> kernel_of(Floats) { return cpu::feedback_kernels().floats; }
cpu::FeedbackFn<Codebook> kernel_of(Codebooks) { return cpu::feedback_kernels().codebooks; }

const float* one_each(const char* op, const char* what, const Tensor& t, const Tensor& x) {
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float && t.sizes().equals(x.sizes()) && t.is_contiguous(), op,
                  "_feedback: ", what, " has dtype ", torch::headeronly::toString(t.scalar_type()), " and ", t.numel(),
                  " elements; wanted contiguous float32, one for each of ", x.numel());
  return static_cast<const float*>(t.const_data_ptr());
}

// The rounded columns, and their errors over the diagonal of the factor.
template <class Family>
std::tuple<Tensor, Tensor> feedback(const Tensor& x, const Tensor& factor, const Tensor& scale,
                                    const std::optional<Tensor>& zero_point,
                                    const Format<typename Family::Element>& format, const Options& options) {
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Double && x.dim() == 2, Family::name, "_feedback: x has dtype ",
                  torch::headeronly::toString(x.scalar_type()), " and ", x.dim(),
                  " dimensions; wanted Double, (columns, rows)");
  const int64_t columns = x.size(0), rows = x.size(1);
  STD_TORCH_CHECK(factor.scalar_type() == ScalarType::Double && factor.dim() == 2 && factor.size(0) == columns &&
                      factor.size(1) == columns,
                  Family::name, "_feedback: factor has dtype ", torch::headeronly::toString(factor.scalar_type()),
                  " and ", factor.numel(), " elements; wanted Double, (", columns, ", ", columns, ")");
  STD_TORCH_CHECK(options.rounding != static_cast<int64_t>(Rounding::stochastic), Family::name,
                  "_feedback: rounding=", options.rounding, "; wanted 0 (even) or 1 (away)");
  const Tensor source = as_contiguous(x), square = as_contiguous(factor);
  Tensor y = floats_like(x, {columns, rows});
  Tensor errors = torch::stable::new_empty(x, {columns, rows}, ScalarType::Double);
  const cpu::Feedback<typename Family::Element> job{
      static_cast<const double*>(source.const_data_ptr()),
      static_cast<float*>(y.mutable_data_ptr()),
      static_cast<double*>(errors.mutable_data_ptr()),
      static_cast<const double*>(square.const_data_ptr()),
      one_each(Family::name, "scale", scale, x),
      zero_point ? one_each(Family::name, "zero_point", *zero_point, x) : nullptr,
      columns,
      rows,
      format.element};
  if (x.numel() == 0) return {y, errors};
  const auto work = kernel_of(Family{});
  const int64_t parts = (rows + feedback_rows - 1) / feedback_rows;
  over_groups(parts, feedback_rows * columns, [&](int64_t first, int64_t last) {
    std::vector<double> scratch(static_cast<size_t>(columns * feedback_rows));
    work(job, first * feedback_rows, std::min(last * feedback_rows, rows), scratch.data());
  });
  return {y, errors};
}

#define QSCALE_FEEDBACK(Family, NAME, ARGUMENTS, FORMAT)                                                           \
  std::tuple<Tensor, Tensor> NAME##_feedback(const Tensor& x, const Tensor& factor, const Tensor& scale,           \
                                             std::optional<Tensor> zero_point, ARGUMENTS) {                        \
    return feedback<Family>(x, factor, scale, zero_point, FORMAT);                                                 \
  }

QSCALE_FEEDBACK(Ints, fake_quant_int, QSCALE_INT, QSCALE_INT_FORMAT)
QSCALE_FEEDBACK(Floats, fake_quant_float, QSCALE_FLOAT, QSCALE_FLOAT_FORMAT)
QSCALE_FEEDBACK(Codebooks, fake_quant_codebook, QSCALE_CODEBOOK, QSCALE_CODEBOOK_FORMAT)

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(qscale, CPU, m) {
  m.impl("fake_quant_int_feedback", TORCH_BOX(&fake_quant_int_feedback));
  m.impl("fake_quant_float_feedback", TORCH_BOX(&fake_quant_float_feedback));
  m.impl("fake_quant_codebook_feedback", TORCH_BOX(&fake_quant_codebook_feedback));
}
