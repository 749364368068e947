// Codes back to values, on CPU tensors: threads, and registration.
#include "bindings/dequantize_ops.h"

#include "bindings/cpu_groups.h"
#include "cpu/kernels.h"

namespace {

using namespace qscale;

Tensor dequantize(QSCALE_DEQUANTIZE) {
  if (is_one(scale, zero_point)) group_size = kPiece, block_rows = 1;
  const Tensor source = as_contiguous(codes);
  Tensor y = values_for(codes, columns, dtype);
  Dequantize job = dequantize_job(source, table, y, columns, group_size, block_rows);
  const int64_t groups = groups_of(y, job.layout);
  const PerGroup scales("dequantize", "scale", scale, groups);
  std::optional<PerGroup> zeros;
  job.scale = scales.data;
  if (zero_point) job.zero_point = zeros.emplace("dequantize", "zero_point", *zero_point, groups).data;
  if (!job.packed || columns % 2 == 0) job.layout = without_rows(job.layout, y.numel());
  const auto work = cpu::kernels().dequantize[static_cast<int>(dtype_of("dequantize", y))];
  over_groups(groups, job.layout.group * job.layout.block_rows,
              [&](int64_t first, int64_t last) { work(job, first, last); });
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(qscale, CPU, m) { m.impl("dequantize_codes", TORCH_BOX(&dequantize)); }
