// Fake quantization by the rules of other libraries on CUDA: the launches. No torch.
#pragma once

#include "cuda/launch.h"

namespace qscale::cuda {

// Asynchronous, on the stream given; allocates nothing. Of a job are read: x and y, which lie without gaps; the layout,
// whose last groups may be shorter; the rule, as element; and, where the rule follows from the tensor as a whole, by
// tensor_level, or its one long group is the tensor, by one_range, the parts that find_range wrote.
template <class Rule>
struct Dialects {
  static cudaError_t values(DType dtype, const Job<Rule>& job, int64_t rows, cudaStream_t stream);
};

}  // namespace qscale::cuda
