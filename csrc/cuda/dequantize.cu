// Codes back to values: which kernel serves a job.
#include "cuda/dequantize.cuh"

#include "cuda/grids.h"

namespace qscale::cuda {

cudaError_t dequantize(DType dtype, const Dequantize& job, int64_t rows, int64_t scale_count, cudaStream_t stream) {
  Codes codes{job, scale_count, {}};
  memcpy(codes.values, job.table,
         static_cast<size_t>(job.packed ? Dequantize::kFewCodes : Dequantize::kAllCodes) * sizeof(float));
  const Layout& layout = job.layout;
  const int64_t count = rows * layout.axis;
  return with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    constexpr int at_once = 4;
    const bool one_scale = scale_count == 1 && count % kPack<T> == 0;
    const bool in_packs = one_scale || (layout.block_rows == 1 && layout.axis % layout.group == 0 &&
                                        layout.group % kPack<T> == 0);
    const bool whole_bytes = !job.packed || layout.axis % 2 == 0;
    constexpr size_t shared_bytes = Dequantize::kAllCodes * sizeof(float);
    if (!in_packs || !whole_bytes || !is_aligned(job.codes) || !is_aligned(job.y)) {
      return launch(dequantize_any<T>, dim3(blocks_for(count, kThreads)), dim3(kThreads), shared_bytes, stream, codes,
                    count);
    }
    const int64_t packs = count / kPack<T>, in_group = one_scale ? packs : layout.group / kPack<T>;
    const int log_packs = one_scale ? 0 : is_power_of_two(in_group) ? log2_of(in_group) : -1;
    const dim3 grid(blocks_for(packs, kThreads * at_once));
    const auto kernel = job.packed ? dequantize_packs<T, true, at_once> : dequantize_packs<T, false, at_once>;
    return launch(kernel, grid, dim3(kThreads), shared_bytes, stream, codes, log_packs, in_group, packs);
  });
}

}  // namespace qscale::cuda
