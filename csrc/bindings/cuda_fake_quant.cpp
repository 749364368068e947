// The fake_quant ops on CUDA tensors: launches on the caller's stream, without waiting, and registration. What may be
// asked is in fake_quant_ops.h.
#include "bindings/cuda_rotation.h"
#include "bindings/fake_quant_ops.h"
#include "cuda/launch.h"
#include "cuda/rotated.h"

namespace {

using namespace qscale;
using namespace qscale::cuda;
using cuda::uninitialized_like;

// A job, and what must live until it is launched.
template <class Family>
struct Asked {
  using Element = typename Family::Element;
  Job<Element> job;
  DType dtype;
  int64_t rows, groups;
  Tensor parts;

  // x lies in rows.
  Asked(const Tensor& x, const Format<Element>& format, const Options& options)
      : dtype(dtype_of(Family::name, x)), parts(torch::stable::new_empty(x, {0}, ScalarType::Long)) {
    static_cast<FakeQuant<Element>&>(job) = job_of(Family::name, x, format, options);
    job.x_stride = row_stride_of(x);
    rows = job.layout.axis == 0 ? 0 : x.numel() / job.layout.axis;
    groups = groups_of(x, job.layout);
  }

  // The first of two launches, where the whole tensor comes first: for its scale, or when it is one long group.
  void see_whole(const Tensor& x, const Options& options, cudaStream_t stream) {
    constexpr int64_t long_group = 32768;
    job.tensor_level = options.tensor_level == 1;
    job.one_range = groups == 1 && x.numel() > long_group;
    if (!job.tensor_level && !job.one_range) return;
    parts = torch::stable::new_empty(x, {cuda::kMostParts}, ScalarType::Long);
    Ends* each = static_cast<Ends*>(parts.mutable_data_ptr());
    check_launched(Family::name, cuda::find_range(dtype, job.x, rows, job.layout.axis, job.x_stride, each,
                                                  &job.parts.count, stream));
    job.parts.each = each;
  }

  // Where one scale serves all elements, rows do not matter: those of packed codes must be whole bytes.
  void join_rows(const Tensor& scale, const std::optional<Tensor>& zero_point) {
    const int64_t axis = job.layout.axis;
    if (scale.numel() != 1 || (zero_point && zero_point->numel() != 1) || job.x_stride != axis) return;
    if (job.packed && axis % 2 != 0) return;
    job.layout = Layout{rows * axis, rows * axis};
    job.x_stride = rows * axis;
    job.scale_count = 0;
    rows = groups = 1;
  }

  // Scales of the caller: one for each group, or fewer, which are repeated.
  void give(const Tensor& scale, const std::optional<Tensor>& zero_point) {
    const auto check = [&](const char* what, const Tensor& t, int64_t wanted) {
      const int64_t count = t.numel();
      STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float && t.is_contiguous() &&
                          (count == groups || (count > 0 && groups % count == 0 && (wanted == 0 || count == wanted))),
                      Family::name, ": ", what, " has dtype ", torch::headeronly::toString(t.scalar_type()), " and ",
                      count, " elements; wanted contiguous float32, one for each of ", groups,
                      " groups, or a divisor of that");
      return static_cast<const float*>(t.const_data_ptr());
    };
    job.scale = check("scale", scale, 0);
    if (zero_point) job.zero_point = check("zero_point", *zero_point, scale.numel());
    job.scale_count = scale.numel() == groups ? 0 : scale.numel();
  }
};

template <class Family>
void run(const Tensor& x, void* y, const Format<typename Family::Element>& format, const Options& options) {
  Asked<Family> asked(x, format, options);
  if (x.numel() == 0) return;
  const OnDevice device(x);
  asked.job.y = y;
  asked.see_whole(x, options, device.stream());
  check_launched(Family::name, Launches<typename Family::Element>::values(asked.dtype, asked.job, asked.rows,
                                                                           device.stream()));
}

template <class Family>
Tensor fake_quant(const Tensor& x, const Format<typename Family::Element>& format, const Options& options) {
  const Tensor source = in_rows(x);
  Tensor y = uninitialized_like(source);
  run<Family>(source, y.mutable_data_ptr(), format, options);
  return y;
}

template <class Family>
void fake_quant_out(const Tensor& x, const Format<typename Family::Element>& format, const Options& options,
                    Tensor& out) {
  check_out(Family::name, x, out);
  run<Family>(in_rows(x), out.mutable_data_ptr(), format, options);
}

// In one pass where the kernels can, else rotated and then quantized in place.
template <class Family>
Tensor rotated(const Tensor& x, int64_t block, const std::optional<Tensor>& signs,
               const Format<typename Family::Element>& format, const Options& options) {
  using Rotated = cuda::Rotated<typename Family::Element>;
  const Tensor source = in_rows(x);
  Tensor y = uninitialized_like(source);
  const OnDevice device(source);
  const CudaRotation rotation(source, y.mutable_data_ptr(), block, signs, false, device.stream());
  Asked<Family> asked(y, format, options);
  if (x.numel() == 0) return y;
  asked.job.y = y.mutable_data_ptr();
  if (Rotated::serves(asked.dtype, rotation.job, asked.job) && options.tensor_level == 0) {
    check_launched(Family::name, Rotated::values(asked.dtype, rotation.job, asked.job, device.stream()));
  } else {
    rotation.run(device.stream());
    run<Family>(y, y.mutable_data_ptr(), format, options);
  }
  return y;
}

template <class Family>
std::tuple<Tensor, Tensor, Tensor> scales(const Tensor& x, const Format<typename Family::Element>& format,
                                          const Options& options) {
  const Tensor source = in_rows(x);
  Asked<Family> asked(source, format, options);
  Tensor scale = floats_like(x, {asked.groups}), zero = floats_like(x, {asked.groups}), level = floats_like(x, {1});
  if (asked.groups == 0) {
    torch::stable::fill_(level, 1.0);
    return {scale, zero, level};
  }
  const OnDevice device(source);
  asked.see_whole(source, options, device.stream());
  const cuda::Outputs out{static_cast<float*>(scale.mutable_data_ptr()), static_cast<float*>(zero.mutable_data_ptr()),
                          static_cast<float*>(level.mutable_data_ptr())};
  check_launched(Family::name, Launches<typename Family::Element>::scales(asked.dtype, asked.job, asked.rows, out,
                                                                           device.stream()));
  return {scale, zero, level};
}

template <class Family>
Tensor given(const Tensor& x, const Tensor& scale, const std::optional<Tensor>& zero_point,
             const Format<typename Family::Element>& format, const Options& options) {
  const Tensor source = in_rows(x);
  Asked<Family> asked(source, format, options);
  asked.give(scale, zero_point);
  Tensor y = uninitialized_like(source);
  if (source.numel() == 0) return y;
  const OnDevice device(source);
  asked.job.y = y.mutable_data_ptr();
  check_launched(Family::name, Launches<typename Family::Element>::values(asked.dtype, asked.job, asked.rows,
                                                                           device.stream()));
  return y;
}

template <class Family>
Tensor codes(const Tensor& x, const Tensor& scale, const std::optional<Tensor>& zero_point, bool packed,
             const Format<typename Family::Element>& format, const Options& options) {
  const Tensor source = in_rows(x);
  Asked<Family> asked(source, format, options);
  asked.give(scale, zero_point);
  Tensor y = bytes_for(source, packed);
  if (source.numel() == 0) return y;
  const OnDevice device(source);
  asked.job.y = y.mutable_data_ptr();
  asked.job.packed = packed;
  asked.join_rows(scale, zero_point);
  check_launched(Family::name, Launches<typename Family::Element>::codes(asked.dtype, asked.job, asked.rows,
                                                                          device.stream()));
  return y;
}

template <class Family>
std::tuple<Tensor, Tensor, Tensor> gradient(const Tensor& grad, const Tensor& x, const Tensor& scale,
                                            const std::optional<Tensor>& zero_point, int64_t gate, double trust,
                                            const Format<typename Family::Element>& format, const Options& options) {
  check_gradient(Family::name, grad, x, gate);
  const Tensor source = as_contiguous(x), upstream = as_contiguous(grad);
  Asked<Family> asked(source, format, options);
  asked.give(scale, zero_point);
  Tensor grad_x = uninitialized_like(source), grad_scale = floats_like(x, {asked.groups});
  Tensor grad_zero = floats_like(x, {zero_point ? asked.groups : 0});
  if (asked.groups == 0) return {grad_x, grad_scale, grad_zero};
  const OnDevice device(source);
  const int64_t in_group = cuda::chunks_in_group(asked.job.layout), chunks = in_group > 1 ? asked.groups * in_group : 0;
  Tensor sums = torch::stable::new_empty(source, {2 * chunks}, ScalarType::Double);
  double* first = static_cast<double*>(sums.mutable_data_ptr());
  const cuda::Gradients out{{upstream.const_data_ptr(), grad_x.mutable_data_ptr(),
                             static_cast<float*>(grad_scale.mutable_data_ptr()),
                             zero_point ? static_cast<float*>(grad_zero.mutable_data_ptr()) : nullptr,
                             static_cast<Gate>(gate), static_cast<float>(trust)},
                            first,
                            first + chunks};
  check_launched(Family::name, Launches<typename Family::Element>::gradients(asked.dtype, asked.job, asked.rows, out,
                                                                              device.stream()));
  return {grad_x, grad_scale, grad_zero};
}

QSCALE_FAMILY(Ints, fake_quant_int, QSCALE_INT, QSCALE_INT_FORMAT)
QSCALE_FAMILY(Floats, fake_quant_float, QSCALE_FLOAT, QSCALE_FLOAT_FORMAT)
QSCALE_FAMILY(Codebooks, fake_quant_codebook, QSCALE_CODEBOOK, QSCALE_CODEBOOK_FORMAT)

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(qscale, QSCALE_CUDA_KEY, m) {
  QSCALE_REGISTER(fake_quant_int);
  QSCALE_REGISTER(fake_quant_float);
  QSCALE_REGISTER(fake_quant_codebook);
}
