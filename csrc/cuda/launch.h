// The launches of fake quantization. No torch. Each is asynchronous, on the stream given, allocates nothing and returns
// what the launch did; pointers are to device memory.
#pragma once

#include <cuda_runtime.h>

#include "cuda/job.h"

namespace qscale::cuda {

// One for each group, and one for the tensor.
struct Outputs {
  float* scale = nullptr;
  float* zero_point = nullptr;
  float* level = nullptr;
};

// Groups longer than a chunk have their sums added up by a second launch, from those of the chunks.
struct Gradients {
  Gradient to;
  double* scale_sums = nullptr;
  double* zero_sums = nullptr;
};

constexpr int kSumChunk = 1024;  // products to a sum, as on the CPU
constexpr int kMostParts = 1024;

// `rows` rows of `axis` elements, `stride` apart, to at most kMostParts parts; `count` becomes their number.
cudaError_t find_range(DType dtype, const void* x, int64_t rows, int64_t axis, int64_t stride, Ends* parts, int* count,
                       cudaStream_t stream);

// Jobs of `rows` rows. Sums that chunks need: none where that is one to a group.
template <class Element>
struct Launches {
  static cudaError_t values(DType dtype, const Job<Element>& job, int64_t rows, cudaStream_t stream);
  static cudaError_t scales(DType dtype, const Job<Element>& job, int64_t rows, const Outputs& out, cudaStream_t stream);
  static cudaError_t codes(DType dtype, const Job<Element>& job, int64_t rows, cudaStream_t stream);
  static cudaError_t gradients(DType dtype, const Job<Element>& job, int64_t rows, const Gradients& out,
                               cudaStream_t stream);
};

inline int64_t groups_of(const Layout& layout, int64_t rows) {
  return rows / layout.matrix_rows * layout.bands_per_matrix() * layout.groups_per_row();
}

// How many chunks a group has; a row of a square begins one.
inline int64_t chunks_in_row(const Layout& layout) { return (layout.group + kSumChunk - 1) / kSumChunk; }
inline int64_t chunks_in_group(const Layout& layout) { return chunks_in_row(layout) * layout.block_rows; }

}  // namespace qscale::cuda
