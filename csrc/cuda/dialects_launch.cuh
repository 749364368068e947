// Which kernels serve the rules of other libraries.
#pragma once

#include "cuda/dialects.cuh"
#include "cuda/dialects.h"
#include "cuda/launch.cuh"

namespace qscale::cuda {

// Kernels beside that for any groups, which serves what they do not: rules whose groups are 16 or 32 elements need none
// for wide ones, and one short block none at all.
enum class Kernels { any, narrow, wide };

template <class Rule, class... Rules>
constexpr bool kIsOneOf = (std::is_same_v<Rule, Rules> || ...);

template <class Rule>
constexpr Kernels kernels_of() {
  using namespace dialects;
  if (kIsOneOf<Rule, BitsandbytesShort>) return Kernels::any;
  const bool blocks = kIsOneOf<Rule, TorchaoMx, TorchaoMxRceil, TorchaoNvfp4, CompressedMx, CompressedNvfp4, OcpMx,
                               ModeloptMxfp4, ModeloptMxfp8, ModeloptNvfp4, Microxcaling<Rounding::even>,
                               Microxcaling<Rounding::away>, TeNvfp4>;
  return blocks ? Kernels::narrow : Kernels::wide;
}

template <class Rule>
cudaError_t Dialects<Rule>::values(DType dtype, const Job<Rule>& job, int64_t rows, cudaStream_t stream) {
  return with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    using Way = Dialect<T, Rule>;
    constexpr Kernels kernels = kernels_of<Rule>();
    const Shape shape = shape_of<T>(job, rows, is_aligned(job.y));
    if constexpr (kernels != Kernels::any) {
      if (shape.is_narrow) return run_narrow<T, Way, Output::values>(job, shape, Outputs{}, stream);
    }
    if constexpr (kernels == Kernels::wide) {
      const bool fits = shape.packs_in_group <= Way::kMostThreads * kPacksEach;
      if (shape.is_wide && fits) return run_wide<T, Way, Output::values>(job, shape, Outputs{}, stream);
    }
    return run_any<T, Way, Output::values>(job, shape, Outputs{}, stream);
  });
}

}  // namespace qscale::cuda
