// What the op that takes codes back to values is asked, whatever the device. Its schema is in qscale/kernels/ops.py, and
// qscale/kernels/reference.py makes the same demands.
#pragma once

#include <optional>
#include <vector>

#include "bindings/fake_quant_ops.h"

namespace qscale {
namespace {

inline ScalarType value_type(ScalarType dtype) {
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half,
                  "dequantize: dtype=", torch::headeronly::toString(dtype), "; wanted Float, BFloat16 or Half");
  return dtype;
}

// Contiguous, uninitialized; of no dimensions where the codes have none.
inline Tensor values_for(const Tensor& codes, int64_t columns, ScalarType dtype) {
  std::vector<int64_t> sizes(codes.sizes().begin(), codes.sizes().end());
  if (!sizes.empty()) sizes.back() = columns;
  return torch::stable::new_empty(codes, sizes, value_type(dtype));
}

// Without scales. The table lies in the memory of the CPU, on every device.
inline Dequantize dequantize_job(const Tensor& codes, const Tensor& table, Tensor& y, int64_t columns,
                                 int64_t group_size, int64_t block_rows) {
  const bool packed = table.numel() == Dequantize::kFewCodes;
  STD_TORCH_CHECK(table.scalar_type() == ScalarType::Float && table.is_contiguous() && table.is_cpu() &&
                      (packed || table.numel() == Dequantize::kAllCodes),
                  "dequantize: table has dtype ", torch::headeronly::toString(table.scalar_type()), " and ",
                  table.numel(), " elements; wanted contiguous float32 on the CPU, 16 or 256 elements");
  const int64_t width = codes.dim() == 0 ? 1 : codes.size(-1);
  STD_TORCH_CHECK(codes.scalar_type() == ScalarType::Byte && columns >= 0 && width == code_bytes(columns, packed),
                  "dequantize: codes have dtype ", torch::headeronly::toString(codes.scalar_type()), " and rows of ",
                  width, "; wanted uint8, ", code_bytes(columns, packed), " for ", columns, " columns");
  const Options options{0, 0, group_size, block_rows, 0, 0};
  return {static_cast<const uint8_t*>(codes.const_data_ptr()), y.mutable_data_ptr(), layout_of("dequantize", y, options),
          static_cast<const float*>(table.const_data_ptr()), packed, nullptr};
}

}  // namespace
}  // namespace qscale

#define QSCALE_DEQUANTIZE                                                                                             \
  const Tensor &codes, const Tensor &table, const Tensor &scale, std::optional<Tensor> zero_point, int64_t columns,   \
      ScalarType dtype, int64_t group_size, int64_t block_rows
