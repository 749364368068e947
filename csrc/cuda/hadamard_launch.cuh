// Which kernel serves a Hadamard transform, and what it takes. For one unit to include: functions are defined here.
#pragma once

#include <algorithm>
#include <numeric>

#include "cuda/grids.h"
#include "cuda/hadamard_any.cuh"

namespace qscale::cuda {

constexpr int kShortValues = 32;
constexpr int64_t kLongestShort = kLanes * kShortValues;  // a warp holds it
constexpr int64_t kLongestWide = 32768;                   // a thread block holds it

// How `any_blocks` is launched.
struct AnyBlocks {
  int64_t pieces;
  int at_once;
  unsigned grid, threads;
  size_t shared_bytes;
  int64_t workspace;  // floats; 0 where shared memory is large enough
};

inline int64_t of_device(cudaDeviceAttr attribute, int otherwise) {
  int device = 0, value = otherwise;
  if (cudaGetDevice(&device) == cudaSuccess) cudaDeviceGetAttribute(&value, attribute, device);
  return value;
}

// Of the blocks from `first` on. Short ones share a thread block, but not where many processors would have none.
inline AnyBlocks any_blocks_of(const Hadamard& job, int64_t first) {
  constexpr int64_t values = 8192, thread_blocks = 256, workspace = int64_t{1} << 25, in_tile = 4 * kMixQuads;
  constexpr int default_shared = 48 * 1024, some_processors = 100;
  const int64_t n = job.size(), blocks = job.blocks - first, step = job.inner < in_tile ? in_tile / job.inner : 1;
  const int64_t wanted = std::min(values / n, blocks / thread_blocks);
  AnyBlocks made{};
  made.at_once = static_cast<int>(std::max(wanted / step * step, step));
  made.pieces = (blocks + made.at_once - 1) / made.at_once;
  const int64_t count = n * made.at_once, tiles = std::max<int64_t>(1, count / (in_tile * kMixRows));
  const int64_t rounds = (tiles + kMixThreads - 1) / kMixThreads;
  made.threads = blocks_for((tiles + rounds - 1) / rounds, kLanes) * kLanes;
  made.shared_bytes = static_cast<size_t>(count) * sizeof(float);
  made.grid = static_cast<unsigned>(made.pieces);
  const int64_t most_shared = of_device(cudaDevAttrMaxSharedMemoryPerBlockOptin, default_shared);
  if (static_cast<int64_t>(made.shared_bytes) > most_shared) {
    const int64_t at_work = 2 * of_device(cudaDevAttrMultiProcessorCount, some_processors);
    made.grid = static_cast<unsigned>(std::min({made.pieces, at_work, std::max<int64_t>(1, workspace / count)}));
    made.workspace = made.grid * count;
    made.shared_bytes = 0;
  }
  return made;
}

template <class T>
bool is_packed(const Hadamard& job) {
  return job.x_stride == job.axis && is_aligned(job.x) && is_aligned(job.y) && is_aligned(job.flips);
}

// Blocks in registers, all but those behind the last whole pack.
template <class T>
int64_t in_registers(const Hadamard& job) {
  if (job.base > 1 || job.inner > kLongestWide || !is_packed<T>(job)) return 0;
  return job.inner >= kPack<T> ? job.blocks : job.blocks * job.inner / kPack<T> * kPack<T> / job.inner;
}

template <class T, int values, int warps, int each>
cudaError_t run_wide(const Hadamard& job, cudaStream_t stream) {
  return launch(wide_blocks<T, values, warps, each>, dim3(static_cast<unsigned>(job.blocks)), dim3(warps * kLanes),
                warps * Exchange<T, values, each>::kBytesOfWarp, stream, job);
}

template <class T>
cudaError_t run_in_registers(const Hadamard& job, int64_t blocks, cudaStream_t stream) {
  switch (job.inner) {
    case 2048:
      return run_wide<T, 32, 2, 4>(job, stream);
    case 4096:
      return run_wide<T, 32, 4, 4>(job, stream);
    case 8192:
      return run_wide<T, 32, 8, 4>(job, stream);
    case 16384:
      return run_wide<T, 64, 8, 2>(job, stream);
    case 32768:
      return run_wide<T, 64, 16, 2>(job, stream);
    default:
      const int64_t packs = blocks * job.inner / kPack<T>;
      const unsigned grid = blocks_for(packs, kSegmentWarps * kLanes * kPacksHeld<T, kShortValues>);
      return launch(short_blocks<T, kShortValues>, dim3(grid), dim3(kSegmentWarps * kLanes), 0, stream, job, packs);
  }
}

template <class T>
cudaError_t run_any(const Hadamard& job, int64_t first, float* workspace, cudaStream_t stream) {
  const AnyBlocks made = any_blocks_of(job, first);
  Signs matrix{};
  if (job.base > kLargestBase) return cudaErrorInvalidValue;
  if (job.base > 1) std::copy_n(job.matrix, job.base * words_in_row(job.base), matrix.words);
  const auto run = [&](auto* kernel) {
    return launch(kernel, dim3(made.grid), dim3(made.threads), made.shared_bytes, stream, job, matrix, first,
                  made.pieces, made.at_once, workspace);
  };
  if (made.workspace > 0) return workspace == nullptr ? cudaErrorInvalidValue : run(any_blocks<T, false, true>);
  if (job.base > 1 && job.inner >= kPack<T> && is_packed<T>(job)) return run(any_blocks<T, true, false>);
  return run(any_blocks<T, false, false>);
}

template <class T>
cudaError_t run_hadamard(const Hadamard& job, float* workspace, cudaStream_t stream) {
  if (job.blocks == 0) return cudaSuccess;
  constexpr int64_t most = int64_t{1} << 28;  // places in a block, and in the flips, are 32-bit
  if (job.size() > most || job.period > 4 * most) return cudaErrorInvalidValue;
  const int64_t first = in_registers<T>(job);
  const cudaError_t done = first > 0 ? run_in_registers<T>(job, first, stream) : cudaSuccess;
  return done != cudaSuccess || first == job.blocks ? done : run_any<T>(job, first, workspace, stream);
}

template <class Word>
__global__ void __launch_bounds__(256)
    make_flips(const float* signs, int64_t count, Word* flips, int64_t made) {
  constexpr int down = 8 * (sizeof(float) - sizeof(Word));
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= made) return;
  const uint32_t bits = bits_of(signs[at % count]);
  flips[at] = static_cast<Word>((bits & 0x80000000u) >> down);
}

std::vector<uint32_t> sign_words(const float* matrix, int64_t base) {
  const int64_t words = words_in_row(base);
  std::vector<uint32_t> made(static_cast<size_t>(base * words));
  for (int64_t at = 0; at < base * base; ++at) {
    const int64_t row = at / base, column = at % base;
    made[static_cast<size_t>(row * words + column / 32)] |= (matrix[at] < 0.0f ? 0x80000000u : 0u) >> column % 32;
  }
  return made;
}

int64_t flips_of_signs(DType dtype, int64_t signs) {
  return std::lcm(signs, static_cast<int64_t>(dtype == DType::float32 ? kPack<float> : kPack<Half>));
}

cudaError_t find_flips(DType dtype, const float* signs, int64_t count, void* flips, cudaStream_t stream) {
  const int64_t made = flips_of_signs(dtype, count);
  const dim3 grid(blocks_for(made, 256)), threads(256);
  if (dtype == DType::float32) {
    return launch(make_flips<uint32_t>, grid, threads, 0, stream, signs, count, static_cast<uint32_t*>(flips), made);
  }
  return launch(make_flips<uint16_t>, grid, threads, 0, stream, signs, count, static_cast<uint16_t*>(flips), made);
}

int64_t hadamard_workspace(DType dtype, const Hadamard& job) {
  int64_t floats = 0;
  with_dtype(dtype, [&](auto tag) {
    const int64_t first = in_registers<decltype(tag)>(job);
    if (first < job.blocks) floats = any_blocks_of(job, first).workspace;
    return cudaSuccess;
  });
  return floats;
}

cudaError_t hadamard(DType dtype, const Hadamard& job, float* workspace, cudaStream_t stream) {
  return with_dtype(dtype, [&](auto tag) { return run_hadamard<decltype(tag)>(job, workspace, stream); });
}

}  // namespace qscale::cuda
