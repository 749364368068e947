// The range of a tensor.
#include "cuda/range.cuh"

#include "cuda/grids.h"

namespace qscale::cuda {

cudaError_t find_range(DType dtype, const void* x, int64_t rows, int64_t axis, int64_t stride, Ends* parts, int* count,
                       cudaStream_t stream) {
  constexpr int64_t packs_each = 4;
  return with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    if (stride != axis && rows > 1) {
      *count = static_cast<int>(rows < kMostParts ? rows : kMostParts);
      return launch(range_parts_of_rows<T>, dim3(static_cast<unsigned>(*count)), dim3(kRangeThreads), sizeof(Shared),
                    stream, x, rows, axis, stride, parts);
    }
    const int64_t elements = rows * axis, packs = is_aligned(x) ? elements / kPack<T> : 0;
    const int64_t left = elements - packs * kPack<T>, work = packs > left ? packs : left;
    const unsigned blocks = blocks_for(work, kRangeThreads * packs_each);
    *count = static_cast<int>(blocks < kMostParts ? blocks : kMostParts);
    return launch(range_parts<T>, dim3(static_cast<unsigned>(*count)), dim3(kRangeThreads), sizeof(Shared), stream, x,
                  packs, left, parts);
  });
}

}  // namespace qscale::cuda
