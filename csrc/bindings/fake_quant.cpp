// fake_quant_int on CPU tensors: what may be asked, threads, and registration. Schemas are in qscale/kernels/ops.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <string>

#include "cpu/kernels.h"

namespace {

using qscale::cpu::DType;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Below this many elements a second thread costs more than it saves.
constexpr int64_t kElementsPerThread = 32768;
constexpr int64_t kLargestCode = 1 << 20;  // codes and denominators stay exact in float32, with room to round

DType dtype_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return DType::float32;
    case ScalarType::BFloat16:
      return DType::bfloat16;
    case ScalarType::Half:
      return DType::float16;
    default:
      STD_TORCH_CHECK(false, "fake_quant_int: x has dtype ", torch::headeronly::toString(x.scalar_type()),
                      "; wanted Float, BFloat16 or Half");
  }
}

void check_arguments(int64_t qmin, int64_t qmax, int64_t denominator, int64_t group_size) {
  STD_TORCH_CHECK(-kLargestCode <= qmin && qmin < 0 && 0 < qmax && qmax <= kLargestCode,
                  "fake_quant_int: qmin=", qmin, ", qmax=", qmax, "; wanted -2**20 <= qmin < 0 < qmax <= 2**20");
  STD_TORCH_CHECK(0 < denominator && denominator <= kLargestCode, "fake_quant_int: denominator=", denominator,
                  "; wanted 1 to 2**20");
  STD_TORCH_CHECK(group_size == -1 || group_size > 0, "fake_quant_int: group_size=", group_size,
                  "; wanted at least 1, or -1 for the whole last axis");
}

// torch::stable::empty_like looks its operator up by name on every call; this costs a third of it.
Tensor uninitialized_like(const Tensor& x) {
  AtenTensorHandle y = nullptr;
  int32_t dtype = 0;
  aoti_torch_get_dtype(x.get(), &dtype);
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(x.dim(), x.sizes().data(), x.strides().data(), dtype,
                                                         aoti_torch_device_type_cpu(), 0, &y));
  return Tensor(y);
}

void run(const Tensor& x, Tensor& y, int64_t qmin, int64_t qmax, int64_t denominator, int64_t group_size) {
  const int64_t count = x.numel();
  if (count == 0) return;
  const int64_t axis = x.dim() == 0 ? 1 : x.size(-1);
  const int64_t group = group_size == -1 ? axis : std::min(group_size, axis);
  const qscale::IntGrid grid{static_cast<float>(qmin), static_cast<float>(qmax), static_cast<float>(denominator)};
  const qscale::cpu::FakeQuantInt job{x.const_data_ptr(), y.mutable_data_ptr(), axis, group, grid};
  const auto kernel = qscale::cpu::kernels().fake_quant_int[static_cast<int>(dtype_of(x))];
  const int64_t groups = count / axis * ((axis + group - 1) / group);
  const int64_t grain = std::max<int64_t>(1, kElementsPerThread / group);
  if (groups <= grain) {
    kernel(job, 0, groups);
    return;
  }
  torch::stable::parallel_for(0, groups, grain, [&](int64_t first, int64_t last) { kernel(job, first, last); });
}

Tensor fake_quant_int(const Tensor& x, int64_t qmin, int64_t qmax, int64_t denominator, int64_t group_size) {
  check_arguments(qmin, qmax, denominator, group_size);
  dtype_of(x);
  const Tensor source = x.is_contiguous() ? x : torch::stable::contiguous(x);
  Tensor y = uninitialized_like(source);
  run(source, y, qmin, qmax, denominator, group_size);
  return y;
}

void fake_quant_int_out(const Tensor& x, int64_t qmin, int64_t qmax, int64_t denominator, int64_t group_size,
                        Tensor out) {
  check_arguments(qmin, qmax, denominator, group_size);
  dtype_of(x);
  STD_TORCH_CHECK(out.scalar_type() == x.scalar_type() && out.sizes().equals(x.sizes()) && out.is_contiguous(),
                  "fake_quant_int_out: out has dtype ", torch::headeronly::toString(out.scalar_type()), " and ",
                  out.numel(), " elements", out.is_contiguous() ? "" : ", not contiguous",
                  "; wanted a contiguous tensor of x's shape and dtype ",
                  torch::headeronly::toString(x.scalar_type()), ", ", x.numel(), " elements");
  const Tensor source = x.is_contiguous() ? x : torch::stable::contiguous(x);
  run(source, out, qmin, qmax, denominator, group_size);
}

std::string cpu_isa() { return qscale::cpu::kernels().isa; }

void use_cpu_isa(std::string name) { qscale::cpu::use_isa(name.c_str()); }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(qscale, CPU, m) {
  m.impl("fake_quant_int", TORCH_BOX(&fake_quant_int));
  m.impl("fake_quant_int_forward", TORCH_BOX(&fake_quant_int));
  m.impl("fake_quant_int_out", TORCH_BOX(&fake_quant_int_out));
}

// No tensor argument, so no device to dispatch on.
STABLE_TORCH_LIBRARY_IMPL(qscale, CompositeExplicitAutograd, m) {
  m.impl("cpu_isa", TORCH_BOX(&cpu_isa));
  m.impl("use_cpu_isa", TORCH_BOX(&use_cpu_isa));
}
