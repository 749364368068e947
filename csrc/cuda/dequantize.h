// The launch that takes codes back to values. No torch. It is asynchronous, on the stream given, allocates nothing and
// returns what the launch did; pointers are to device memory, but for the table.
#pragma once

#include <cuda_runtime.h>

#include "jobs.h"

namespace qscale::cuda {

// `scale_count` scales are repeated, where they are fewer than groups; 0 stands for one to a group.
cudaError_t dequantize(DType dtype, const Dequantize& job, int64_t rows, int64_t scale_count, cudaStream_t stream);

}  // namespace qscale::cuda
