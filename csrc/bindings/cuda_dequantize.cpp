// Codes back to values, on CUDA tensors: the launch on the caller's stream, without waiting, and registration.
#include "bindings/cuda_device.h"
#include "bindings/dequantize_ops.h"
#include "cuda/dequantize.h"

namespace {

using namespace qscale;
using namespace qscale::cuda;

const float* per_group(const char* what, const Tensor& t, int64_t groups, int64_t wanted) {
  const int64_t count = t.numel();
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float && t.is_contiguous() &&
                      (count == groups || (count > 0 && groups % count == 0 && (wanted == 0 || count == wanted))),
                  "dequantize: ", what, " has dtype ", torch::headeronly::toString(t.scalar_type()), " and ", count,
                  " elements; wanted contiguous float32, one for each of ", groups, " groups, or a divisor of that");
  return static_cast<const float*>(t.const_data_ptr());
}

Tensor dequantize_op(QSCALE_DEQUANTIZE) {
  const Tensor source = as_contiguous(codes);
  Tensor y = values_for(codes, columns, dtype);
  Dequantize job = dequantize_job(source, table, y, columns, group_size, block_rows);
  const int64_t groups = groups_of(y, job.layout);
  job.scale = per_group("scale", scale, groups, 0);
  if (zero_point) job.zero_point = per_group("zero_point", *zero_point, groups, scale.numel());
  if (groups == 0) return y;
  const OnDevice device(source);
  const int64_t count = scale.numel() == groups && groups > 1 ? 0 : scale.numel();
  check_launched("dequantize", cuda::dequantize(dtype_of("dequantize", y), job, y.numel() / job.layout.axis, count,
                                                device.stream()));
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(qscale, QSCALE_CUDA_KEY, m) { m.impl("dequantize_codes", TORCH_BOX(&dequantize_op)); }
