// The fake_quant ops on CPU tensors: what may be asked, threads, and registration. Schemas are in
// qscale/kernels/ops.py, and qscale/kernels/reference.py makes the same demands.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <atomic>
#include <string>

#include "bindings/tensors.h"
#include "cpu/kernels.h"

namespace {

using qscale::Codebook;
using qscale::FloatGrid;
using qscale::IntGrid;
using qscale::Nvfp4;
using qscale::Rounding;
using qscale::ScaleRule;
using qscale::cpu::DType;
using qscale::cpu::FakeQuant;
using qscale::cpu::FakeQuantFn;
using qscale::cpu::Kernels;
using qscale::cpu::ScaledFloat;
using qscale::dtype_of;
using qscale::kElementsPerThread;
using qscale::uninitialized_like;
using torch::stable::Tensor;

constexpr int64_t kLargestCode = 1 << 20;  // codes and denominators stay exact in float32, with room to round

// Where each format finds its kernels.
FakeQuantFn<IntGrid> kernel(const Kernels& k, int dtype, const IntGrid&) { return k.fake_quant_int[dtype]; }
FakeQuantFn<ScaledFloat> kernel(const Kernels& k, int dtype, const ScaledFloat&) { return k.fake_quant_float[dtype]; }
FakeQuantFn<Nvfp4> kernel(const Kernels& k, int dtype, const Nvfp4&) { return k.fake_quant_nvfp4[dtype]; }
FakeQuantFn<Codebook> kernel(const Kernels& k, int dtype, const Codebook&) { return k.fake_quant_codebook[dtype]; }

float absmax_of(const Tensor& x, DType dtype) {
  const auto run = qscale::cpu::kernels().absmax[static_cast<int>(dtype)];
  const char* data = static_cast<const char*>(x.const_data_ptr());
  const int64_t size = dtype == DType::float32 ? 4 : 2;
  std::atomic<uint32_t> largest{0};
  const auto part = [&](int64_t first, int64_t last) {
    const uint32_t found = run(data + first * size, last - first);
    uint32_t seen = largest.load(std::memory_order_relaxed);
    while (found > seen && !largest.compare_exchange_weak(seen, found, std::memory_order_relaxed)) {
    }
  };
  if (x.numel() <= kElementsPerThread) {
    part(0, x.numel());
  } else {
    torch::stable::parallel_for(0, x.numel(), kElementsPerThread, part);
  }
  return qscale::float_of(largest.load());
}

// Formats that need no look at the whole tensor stay as they are.
template <class Format>
void complete(Format&, const Tensor&, DType) {}

// A tensor scale of 0 asks for that of the tensor.
void complete(Nvfp4& format, const Tensor& x, DType dtype) {
  if (format.tensor_scale == 0.0f) format.tensor_scale = qscale::nvfp4_tensor_scale(absmax_of(x, dtype));
}

template <class Format>
void run(const char* op, const Tensor& x, Tensor& y, int64_t group_size, Format format) {
  const DType dtype = dtype_of(op, x);
  const int64_t count = x.numel();
  if (count == 0) return;
  complete(format, x, dtype);
  const int64_t axis = x.dim() == 0 ? 1 : x.size(-1);
  const int64_t group = group_size == -1 ? axis : std::min(group_size, axis);
  const FakeQuant<Format> job{x.const_data_ptr(), y.mutable_data_ptr(), axis, group, format};
  const FakeQuantFn<Format> work = kernel(qscale::cpu::kernels(), static_cast<int>(dtype), format);
  const int64_t groups = count / axis * ((axis + group - 1) / group);
  const int64_t grain = std::max<int64_t>(1, kElementsPerThread / group);
  if (groups <= grain) {
    work(job, 0, groups);
    return;
  }
  torch::stable::parallel_for(0, groups, grain, [&](int64_t first, int64_t last) { work(job, first, last); });
}

template <class Format>
Tensor forward(const char* op, const Tensor& x, int64_t group_size, const Format& format) {
  dtype_of(op, x);
  const Tensor source = x.is_contiguous() ? x : torch::stable::contiguous(x);
  Tensor y = uninitialized_like(source);
  run(op, source, y, group_size, format);
  return y;
}

template <class Format>
void forward_out(const char* op, const Tensor& x, int64_t group_size, const Format& format, Tensor& out) {
  dtype_of(op, x);
  STD_TORCH_CHECK(out.scalar_type() == x.scalar_type() && out.sizes().equals(x.sizes()) && out.is_contiguous(), op,
                  "_out: out has dtype ", torch::headeronly::toString(out.scalar_type()), " and ", out.numel(),
                  " elements", out.is_contiguous() ? "" : ", not contiguous",
                  "; wanted a contiguous tensor of x's shape and dtype ",
                  torch::headeronly::toString(x.scalar_type()), ", ", x.numel(), " elements");
  const Tensor source = x.is_contiguous() ? x : torch::stable::contiguous(x);
  run(op, source, out, group_size, format);
}

void check_group(const char* op, int64_t group_size) {
  STD_TORCH_CHECK(group_size == -1 || group_size > 0, op, ": group_size=", group_size,
                  "; wanted at least 1, or -1 for the whole last axis");
}

Rounding rounding_of(const char* op, int64_t rounding) {
  STD_TORCH_CHECK(rounding == 0 || rounding == 1, op, ": rounding=", rounding, "; wanted 0 (even) or 1 (away)");
  return static_cast<Rounding>(rounding);
}

constexpr const char* kInt = "fake_quant_int";
constexpr const char* kFloat = "fake_quant_float";
constexpr const char* kNvfp4 = "fake_quant_nvfp4";
constexpr const char* kCodebook = "fake_quant_codebook";

IntGrid int_format(int64_t qmin, int64_t qmax, int64_t denominator, int64_t group_size, int64_t rounding) {
  STD_TORCH_CHECK(-kLargestCode <= qmin && qmin < 0 && 0 < qmax && qmax <= kLargestCode, kInt, ": qmin=", qmin,
                  ", qmax=", qmax, "; wanted -2**20 <= qmin < 0 < qmax <= 2**20");
  STD_TORCH_CHECK(0 < denominator && denominator <= kLargestCode, kInt, ": denominator=", denominator,
                  "; wanted 1 to 2**20");
  check_group(kInt, group_size);
  return {static_cast<float>(qmin), static_cast<float>(qmax), static_cast<float>(denominator),
          rounding_of(kInt, rounding)};
}

ScaledFloat float_format(int64_t mantissa_bits, int64_t min_exponent, double largest, int64_t group_size,
                         int64_t scale_rule, int64_t rounding) {
  STD_TORCH_CHECK(0 <= mantissa_bits && mantissa_bits <= 10 && -126 <= min_exponent && min_exponent <= 1, kFloat,
                  ": mantissa_bits=", mantissa_bits, ", min_exponent=", min_exponent,
                  "; wanted 0 to 10 and -126 to 1");
  const FloatGrid grid{static_cast<int>(mantissa_bits), static_cast<int>(min_exponent), static_cast<float>(largest),
                       rounding_of(kFloat, rounding)};
  STD_TORCH_CHECK(grid.largest >= 1.0f && qscale::is_finite(grid.largest) &&
                      static_cast<double>(grid.largest) == largest && round_to_grid(grid.largest, grid) == grid.largest,
                  kFloat, ": largest=", largest, "; wanted a value of the format, 1 or above");
  STD_TORCH_CHECK(0 <= scale_rule && scale_rule <= 4, kFloat, ": scale_rule=", scale_rule,
                  "; wanted 0 (free), 1 (floor), 2 (ceil), 3 (rceil) or 4 (even)");
  check_group(kFloat, group_size);
  return {grid, static_cast<ScaleRule>(scale_rule)};
}

Nvfp4 nvfp4_format(int64_t group_size, int64_t tensor_level, int64_t rounding) {
  STD_TORCH_CHECK(tensor_level == 0 || tensor_level == 1, kNvfp4, ": tensor_level=", tensor_level,
                  "; wanted 1, or 0 for block scales alone");
  check_group(kNvfp4, group_size);
  return {tensor_level == 1 ? 0.0f : 1.0f, rounding_of(kNvfp4, rounding)};
}

Codebook codebook_format(int64_t codebook, int64_t group_size) {
  STD_TORCH_CHECK(0 <= codebook && codebook < qscale::kCodebookCount, kCodebook, ": codebook=", codebook,
                  "; wanted 0 (nf4) or 1 (fp4_bnb)");
  check_group(kCodebook, group_size);
  return qscale::codebook(codebook);
}

Tensor fake_quant_int(const Tensor& x, int64_t qmin, int64_t qmax, int64_t denominator, int64_t group_size,
                      int64_t rounding) {
  return forward(kInt, x, group_size, int_format(qmin, qmax, denominator, group_size, rounding));
}

void fake_quant_int_out(const Tensor& x, int64_t qmin, int64_t qmax, int64_t denominator, int64_t group_size,
                        int64_t rounding, Tensor out) {
  forward_out(kInt, x, group_size, int_format(qmin, qmax, denominator, group_size, rounding), out);
}

Tensor fake_quant_float(const Tensor& x, int64_t mantissa_bits, int64_t min_exponent, double largest,
                        int64_t group_size, int64_t scale_rule, int64_t rounding) {
  const auto format = float_format(mantissa_bits, min_exponent, largest, group_size, scale_rule, rounding);
  return forward(kFloat, x, group_size, format);
}

void fake_quant_float_out(const Tensor& x, int64_t mantissa_bits, int64_t min_exponent, double largest,
                          int64_t group_size, int64_t scale_rule, int64_t rounding, Tensor out) {
  const auto format = float_format(mantissa_bits, min_exponent, largest, group_size, scale_rule, rounding);
  forward_out(kFloat, x, group_size, format, out);
}

Tensor fake_quant_nvfp4(const Tensor& x, int64_t group_size, int64_t tensor_level, int64_t rounding) {
  return forward(kNvfp4, x, group_size, nvfp4_format(group_size, tensor_level, rounding));
}

void fake_quant_nvfp4_out(const Tensor& x, int64_t group_size, int64_t tensor_level, int64_t rounding, Tensor out) {
  forward_out(kNvfp4, x, group_size, nvfp4_format(group_size, tensor_level, rounding), out);
}

Tensor fake_quant_codebook(const Tensor& x, int64_t codebook, int64_t group_size) {
  return forward(kCodebook, x, group_size, codebook_format(codebook, group_size));
}

void fake_quant_codebook_out(const Tensor& x, int64_t codebook, int64_t group_size, Tensor out) {
  forward_out(kCodebook, x, group_size, codebook_format(codebook, group_size), out);
}

std::string cpu_isa() { return qscale::cpu::kernels().isa; }

void use_cpu_isa(std::string name) { qscale::cpu::use_isa(name.c_str()); }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(qscale, CPU, m) {
  m.impl("fake_quant_int", TORCH_BOX(&fake_quant_int));
  m.impl("fake_quant_int_forward", TORCH_BOX(&fake_quant_int));
  m.impl("fake_quant_int_out", TORCH_BOX(&fake_quant_int_out));
  m.impl("fake_quant_float", TORCH_BOX(&fake_quant_float));
  m.impl("fake_quant_float_forward", TORCH_BOX(&fake_quant_float));
  m.impl("fake_quant_float_out", TORCH_BOX(&fake_quant_float_out));
  m.impl("fake_quant_nvfp4", TORCH_BOX(&fake_quant_nvfp4));
  m.impl("fake_quant_nvfp4_forward", TORCH_BOX(&fake_quant_nvfp4));
  m.impl("fake_quant_nvfp4_out", TORCH_BOX(&fake_quant_nvfp4_out));
  m.impl("fake_quant_codebook", TORCH_BOX(&fake_quant_codebook));
  m.impl("fake_quant_codebook_forward", TORCH_BOX(&fake_quant_codebook));
  m.impl("fake_quant_codebook_out", TORCH_BOX(&fake_quant_codebook_out));
}

// No tensor argument, so no device to dispatch on.
STABLE_TORCH_LIBRARY_IMPL(qscale, CompositeExplicitAutograd, m) {
  m.impl("cpu_isa", TORCH_BOX(&cpu_isa));
  m.impl("use_cpu_isa", TORCH_BOX(&use_cpu_isa));
}
