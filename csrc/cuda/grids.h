// What launches are made of: counts of blocks, alignment, and a number of the dtype at hand.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "jobs.h"
#include "numerics/float16.h"

namespace qscale::cuda {

inline unsigned blocks_for(int64_t things, int64_t in_block) {
  return static_cast<unsigned>((things + in_block - 1) / in_block);
}

inline bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }
inline bool is_power_of_two(int64_t n) { return n > 0 && (n & (n - 1)) == 0; }
inline int log2_of(int64_t power) {
  int log = 0;
  while (int64_t{1} << log < power) ++log;
  return log;
}

// Calls `use` with a number of the type that the elements of x have.
template <class Use>
cudaError_t with_dtype(DType dtype, Use use) {
  switch (dtype) {
    case DType::float32:
      return use(float{});
    case DType::bfloat16:
      return use(BFloat16{});
    case DType::float16:
      return use(Half{});
  }
  return cudaErrorInvalidValue;
}

}  // namespace qscale::cuda
