// Fake quantization by the rules of other libraries on CUDA tensors: launches on the caller's stream, without waiting,
// and registration. What may be asked is in dialect_ops.h.
#include "bindings/cuda_device.h"
#include "bindings/dialect_ops.h"
#include "cuda/dialects.h"

namespace {

using namespace qscale::dialects;
using qscale::cuda::check_launched;
using qscale::cuda::Job;
using qscale::cuda::OnDevice;

struct Cuda {
  static Tensor uninitialized_like(const Tensor& x) { return qscale::cuda::uninitialized_like(x); }

  template <class Rule>
  static void run(const Source& x, void* y, int64_t group, const Rule& rule) {
    launch(x, y, group, rule, false);
  }
  template <class Rule>
  static void run_by_tensor(const Source& x, void* y, int64_t group) {
    launch(x, y, group, Rule{}, true);
  }

 private:
  // Two launches where the whole tensor comes first: a rule follows from it, or it is one long group.
  template <class Rule>
  static void launch(const Source& x, void* y, int64_t group, const Rule& rule, bool by_tensor) {
    constexpr int64_t long_group = 32768;
    const OnDevice device(x.tensor);
    const int64_t rows = x.count / x.axis;
    Job<Rule> job{};
    job.x = x.data;
    job.y = y;
    job.layout = {x.axis, group};
    job.x_stride = x.axis;
    job.element = rule;
    job.tensor_level = by_tensor;
    job.one_range = group == x.count && x.count > long_group;
    const bool sees_whole = job.tensor_level || job.one_range;
    Tensor parts = torch::stable::new_empty(x.tensor, {sees_whole ? qscale::cuda::kMostParts : 0}, ScalarType::Long);
    if (sees_whole) {
      auto* each = static_cast<qscale::Ends*>(parts.mutable_data_ptr());
      check_launched(x.op, qscale::cuda::find_range(x.dtype, x.data, rows, x.axis, x.axis, each, &job.parts.count,
                                                    device.stream()));
      job.parts.each = each;
    }
    check_launched(x.op, qscale::cuda::Dialects<Rule>::values(x.dtype, job, rows, device.stream()));
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(qscale, QSCALE_CUDA_KEY, m) { add_dialects<Cuda>(m); }

// The tables are made on the CPU.
STABLE_TORCH_LIBRARY_IMPL(qscale, CPU, m) { m.impl("keep_cuda_logarithms", TORCH_BOX(&keep_logarithms)); }
