// Fake quantization by the rules of other libraries on CPU tensors: threads, and registration. What may be asked is in
// dialect_ops.h.
#include <algorithm>
#include <atomic>

#include "bindings/dialect_ops.h"
#include "cpu/dialect_kernels.h"

namespace {

using namespace qscale::dialects;
using qscale::BFloat16;
using qscale::DType;
using qscale::Half;
using qscale::kElementsPerThread;
using qscale::cpu::dialect_kernels;
using qscale::cpu::DialectJob;
using qscale::cpu::KernelsOf;

float absmax_of(const Source& x) {
  const auto run = dialect_kernels().magnitude[static_cast<int>(x.dtype)];
  const char* data = static_cast<const char*>(x.data);
  std::atomic<uint32_t> largest{0};
  const auto part = [&](int64_t first, int64_t last) {
    const uint32_t found = run(data + first * size_of(x.dtype), last - first);
    uint32_t seen = largest.load(std::memory_order_relaxed);
    while (found > seen && !largest.compare_exchange_weak(seen, found, std::memory_order_relaxed)) {
    }
  };
  if (x.count <= kElementsPerThread) {
    part(0, x.count);
  } else {
    torch::stable::parallel_for(0, x.count, kElementsPerThread, part);
  }
  return qscale::float_of(largest.load());
}

struct Cpu {
  static Tensor uninitialized_like(const Tensor& x) { return qscale::uninitialized_like(x); }

  template <class Rule>
  static void run(const Source& x, void* y, int64_t group, const Rule& rule) {
    // Rows of whole groups are one long row.
    const DialectJob<Rule> job{x.data, y, x.axis % group == 0 ? x.count : x.axis, group, rule};
    const auto work = static_cast<const KernelsOf<Rule>&>(dialect_kernels()).by_dtype[static_cast<int>(x.dtype)];
    const int64_t groups = x.count / job.axis * ((job.axis + group - 1) / group);
    const int64_t grain = std::max<int64_t>(1, kElementsPerThread / group);
    if (groups <= grain) {
      work(job, 0, groups);
    } else {
      torch::stable::parallel_for(0, groups, grain, [&](int64_t first, int64_t last) { work(job, first, last); });
    }
  }

  template <class Rule>
  static void run_by_tensor(const Source& x, void* y, int64_t group) {
    const float absmax = absmax_of(x);
    run(x, y, group, x.dtype == DType::float32    ? of_tensor<float>(absmax, Rule{})
                     : x.dtype == DType::bfloat16 ? of_tensor<BFloat16>(absmax, Rule{})
                                                  : of_tensor<Half>(absmax, Rule{}));
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(qscale, CPU, m) {
  add_dialects<Cpu>(m);
  m.impl("keep_logarithms", TORCH_BOX(&keep_logarithms));
}
