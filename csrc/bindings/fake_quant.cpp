// The fake_quant ops on CPU tensors: what may be asked, threads, and registration. Schemas are in
// qscale/kernels/ops.py, and qscale/kernels/reference.py makes the same demands.
#include "bindings/fake_quant_ops.h"

#include <atomic>
#include <mutex>
#include <numeric>
#include <string>

#include "bindings/cpu_groups.h"
#include "bindings/rotation.h"
#include "cpu/kernels.h"

namespace {

using namespace qscale;
using cpu::GroupKernels;

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

// The kernels of each family.
const GroupKernels<IntGrid>* kernels_of(Ints) { return cpu::kernels().ints; }
const GroupKernels<FloatGrid>* kernels_of(Floats) { return cpu::kernels().floats; }
const GroupKernels<Codebook>* kernels_of(Codebooks) { return cpu::kernels().codebooks; }

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
  const auto work = kernels_of(Family{})[static_cast<int>(dtype)].fake_quant;
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
  check_out(Family::name, x, out);
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
  const auto work = kernels_of(Family{})[static_cast<int>(dtype_of(Family::name, x))].fake_quant;
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
    const auto work = kernels_of(Family{})[static_cast<int>(dtype)].scales;
    float* scale_data = static_cast<float*>(scale.mutable_data_ptr());
    float* zero_data = static_cast<float*>(zero.mutable_data_ptr());
    over_groups(groups, job.layout.group * job.layout.block_rows,
                [&](int64_t first, int64_t last) { work(job, first, last, scale_data, zero_data); });
  }
  *static_cast<float*>(level.mutable_data_ptr()) = tensor_scale;
  return {scale, zero, level};
}

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

  // So many groups at a time.
  template <class Run>
  void over(const Run& run, int64_t at_once = 1) const {
    over_groups(groups / at_once, job.layout.group * job.layout.block_rows * at_once,
                [&](int64_t first, int64_t last) { run(first * at_once, last * at_once); });
  }
};

template <class Family>
Tensor given(const Tensor& x, const Tensor& scale, const std::optional<Tensor>& zero_point,
             const Format<typename Family::Element>& format, const Options& options) {
  const Tensor source = as_contiguous(x);
  Given<Family> given(source, scale, zero_point, format, options);
  Tensor y = uninitialized_like(source);
  given.job.y = y.mutable_data_ptr();
  const auto work = kernels_of(Family{})[static_cast<int>(dtype_of(Family::name, x))].fake_quant;
  given.over([&](int64_t first, int64_t last) { work(given.job, first, last); });
  return y;
}

// Groups of odd length share a byte of packed codes: then a thread takes whole bands.
template <class Family>
Tensor codes(const Tensor& x, const Tensor& scale, const std::optional<Tensor>& zero_point, bool packed,
             const Format<typename Family::Element>& format, Options options) {
  if (is_one(scale, zero_point)) options.group_size = kPiece, options.block_rows = 1;
  const Tensor source = as_contiguous(x);
  Given<Family> given(source, scale, zero_point, format, options);
  Tensor y = bytes_for(source, packed);
  if (given.groups == 0) return y;
  const Layout rows = layout_of(Family::name, source, options);
  const bool apart = !packed || rows.group % 2 == 0;
  given.job.y = y.mutable_data_ptr();
  given.job.packed = packed;
  if (!apart || (packed && rows.axis % 2 != 0)) given.job.layout = rows;
  const auto work = kernels_of(Family{})[static_cast<int>(dtype_of(Family::name, x))].codes;
  given.over([&](int64_t first, int64_t last) { work(given.job, first, last); }, apart ? 1 : rows.groups_per_row());
  return y;
}

template <class Family>
std::tuple<Tensor, Tensor, Tensor> gradient(const Tensor& grad, const Tensor& x, const Tensor& scale,
                                            const std::optional<Tensor>& zero_point, int64_t gate, double trust,
                                            const Format<typename Family::Element>& format, const Options& options) {
  check_gradient(Family::name, grad, x, gate);
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
  const auto work = kernels_of(Family{})[static_cast<int>(dtype_of(Family::name, x))].gradient;
  given.over([&](int64_t first, int64_t last) { work(given.job, first, last, out); });
  return {grad_x, grad_scale, grad_zero};
}

QSCALE_FAMILY(Ints, fake_quant_int, QSCALE_INT, QSCALE_INT_FORMAT)
QSCALE_FAMILY(Floats, fake_quant_float, QSCALE_FLOAT, QSCALE_FLOAT_FORMAT)
QSCALE_FAMILY(Codebooks, fake_quant_codebook, QSCALE_CODEBOOK, QSCALE_CODEBOOK_FORMAT)

std::string cpu_isa() { return qscale::cpu::kernels().isa; }

void use_cpu_isa(std::string name) { qscale::cpu::use_isa(name.c_str()); }

}  // namespace

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
