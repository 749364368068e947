// Which kernel rotates and quantizes, and what it takes.
#pragma once

#include "cuda/grids.h"
#include "cuda/rotated.cuh"
#include "cuda/rotated.h"

namespace qscale::cuda {

constexpr int kRotatedValues = 32;
constexpr int64_t kLongestShortRotated = kLanes * kRotatedValues;
constexpr int64_t kLongestWideRotated = kLongestShortRotated * kSegmentWarps;

template <class Element>
struct RotatedRounder;
template <>
struct RotatedRounder<IntGrid> {
  using Type = QuickInt<true>;
};
template <>
struct RotatedRounder<FloatGrid> {
  using Type = QuickFloat<true>;
};
template <>
struct RotatedRounder<Codebook> {
  using Type = QuickCodebook<true>;
};

template <class T, class Way, class Element>
cudaError_t run_rotated(const Hadamard& rotation, const Job<Element>& job, cudaStream_t stream) {
  if (rotation.inner <= kLongestShortRotated) {
    const int64_t packs = rotation.blocks * rotation.inner / kPack<T>;
    const unsigned grid = blocks_for(packs, kSegmentWarps * kLanes * kPacksHeld<T, kRotatedValues>);
    return launch(short_rotated<T, Way, kRotatedValues>, dim3(grid), dim3(kSegmentWarps * kLanes), sizeof(Shared), stream,
                  rotation, job, packs, log2_of(job.layout.group / kPack<T>));
  }
  const unsigned warps = static_cast<unsigned>(rotation.inner / kLongestShortRotated);
  return launch(wide_rotated<T, Way, kRotatedValues>, dim3(static_cast<unsigned>(rotation.blocks)), dim3(warps * kLanes),
                sizeof(Shared) + warps * Exchange<T, kRotatedValues, 4>::kBytesOfWarp, stream, rotation, job,
                log2_of(job.layout.group / 4));
}

template <class Element>
bool Rotated<Element>::serves(DType dtype, const Hadamard& rotation, const Job<Element>& job) {
  using Rounder = typename RotatedRounder<Element>::Type;
  const Layout& layout = job.layout;
  const int64_t pack = dtype == DType::float32 ? kPack<float> : kPack<Half>, n = rotation.size(), group = layout.group;
  const bool dense = rotation.x_stride == rotation.axis && is_aligned(rotation.x) && is_aligned(job.y) &&
                     is_aligned(rotation.flips) && !rotation.flip_after;
  const bool own = job.scale == nullptr && !job.tensor_level && !job.one_range && Rounder::serves(job.element);
  const bool even = layout.block_rows == 1 && layout.axis == rotation.axis && layout.axis % group == 0;
  if (!dense || !own || !even || rotation.base > 1 || n < pack || !is_power_of_two(group)) return false;
  if (n <= kLongestShortRotated) return group >= pack && group <= kLongestShortRotated;
  return n <= kLongestWideRotated && group >= 4 && (group <= 4 * kLanes || group == n);
}

template <class Element>
cudaError_t Rotated<Element>::values(DType dtype, const Hadamard& rotation, const Job<Element>& job,
                                     cudaStream_t stream) {
  if (!serves(dtype, rotation, job)) return cudaErrorInvalidValue;
  if (rotation.blocks == 0) return cudaSuccess;
  return with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    using Rounder = typename RotatedRounder<Element>::Type;
    if constexpr (!std::is_same_v<Element, Codebook>) {
      if (qscale::is_power_of_two(job.scaling.kind)) return run_rotated<T, Quick<Rounder, 0>>(rotation, job, stream);
    }
    return run_rotated<T, Quick<Rounder, kNewtonSteps>>(rotation, job, stream);
  });
}

}  // namespace qscale::cuda
