// Rotated, rounded to the dtype, then in and out of a format: groups within a segment, within 32 quads, or whole blocks.
#pragma once

#include "cuda/fake_quant.cuh"
#include "cuda/hadamard.cuh"

namespace qscale::cuda {

// As the rotation alone would have stored them.
template <class T>
__device__ __forceinline__ void round_pack(float* v, float scale) {
  unpack<T>(scaled_pack<T>(v, scale), *reinterpret_cast<float(*)[kPack<T>]>(v));
}
template <class T>
__device__ __forceinline__ void round_quad(float* v, float scale) {
  if constexpr (kPack<T> == 4) {
    round_pack<T>(v, scale);
  } else {
    const uint2 words = scaled_quad<T>(v, scale);
    unpack_word(words.x, v, T{});
    unpack_word(words.y, v + 2, T{});
  }
}

template <int count, class Reduced>
__device__ __forceinline__ Reduced reduced_of(const float* v, Reduced reduced) {
#pragma unroll
  for (int i = 0; i < count; ++i) reduced = joined(reduced, one_of(v[i], Reduced{}));
  return reduced;
}

// Blocks that a segment holds, and groups of `group` packs, a power of two, that it holds too.
template <class T, class Way, int values>
__global__ void __launch_bounds__(kSegmentWarps* kLanes)
    short_rotated(const __grid_constant__ Hadamard rotation, const __grid_constant__ Job<typename Way::Element> job,
                  int64_t packs, int log_group) {
  constexpr int held = kPacksHeld<T, values>, pack_size = kPack<T>;
  using Reduced = typename Way::Reduced;
  const Way way(job, {job.scaling.tensor_scale});
  const int lane = static_cast<int>(threadIdx.x) % kLanes, warp = static_cast<int>(threadIdx.x) / kLanes;
  const int64_t segment = (static_cast<int64_t>(blockIdx.x) * kSegmentWarps + warp) * (kLanes * held);
  if (segment >= packs) return;
  float v[values];
  load_segment<T>(rotation, segment, packs, lane, v);
  within_segment<T>(v, static_cast<int>(rotation.inner), lane);
  const int group = 1 << log_group;
  Reduced reduced[held];
#pragma unroll
  for (int k = 0; k < held; ++k) {
    round_pack<T>(v + k * pack_size, rotation.scale);
    reduced[k] = over_lanes(reduced_of<pack_size>(v + k * pack_size, nothing_of(Reduced{})), min(group, kLanes));
  }
#pragma unroll
  for (int h = 1; h < held; h *= 2) {
    if (h * kLanes >= group) break;
#pragma unroll
    for (int k = 0; k < held; ++k) {
      if ((k & h) == 0) reduced[k] = reduced[k + h] = joined(reduced[k], reduced[k + h]);
    }
  }
#pragma unroll
  for (int k = 0; k < held; ++k) {
    const int64_t pack = segment + k * kLanes + lane;
    if (pack >= packs) break;
    const auto scale = way.scale(reduced[k], pack >> log_group);
    float out[pack_size];
#pragma unroll
    for (int i = 0; i < pack_size; ++i) out[i] = v[k * pack_size + i];
    if (!way.serves(scale)) store_pack(job.y, pack, packed<T>(out));  // to be read from there
    finish_pack<T, Way, Output::values>(way, out, scale, job.y, job.y, pack);
  }
}

// Four elements of a group, the first of them number `at` of the tensor.
template <class T, class Way>
__device__ __forceinline__ void finish_quad(const Way& way, const float* v, const typename Way::Scale& scale, void* y,
                                            int64_t at) {
  QuadWords<T>* to = static_cast<QuadWords<T>*>(y) + at / 4;
  if (!way.serves(scale)) {
    *to = packed_quad(v, T{});  // to be read from there
    T* elements = static_cast<T*>(y) + at;
#pragma unroll 1
    for (int i = 0; i < 4; ++i) from_float(way.exact(to_float(elements[i]), scale), elements[i]);
    return;
  }
  float out[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) out[i] = way.value(v[i], scale, 0u);
  *to = packed_quad(out, T{});
}

// A block of a segment to each warp of a thread block, and groups of `group` quads: up to a warp, or the block's.
template <class T, class Way, int values>
__global__ void __launch_bounds__(kSegmentWarps* kLanes)
    wide_rotated(const __grid_constant__ Hadamard rotation, const __grid_constant__ Job<typename Way::Element> job,
                 int log_group) {
  using Reduced = typename Way::Reduced;
  const Way way(job, {job.scaling.tensor_scale});
  const Exchange<T, values, 4> exchange{static_cast<int>(blockDim.x) / kLanes};
  const int thread = static_cast<int>(threadIdx.x), group = 1 << log_group;
  const int64_t start = static_cast<int64_t>(blockIdx.x) * rotation.inner;
  float v[values];
  wide_block(rotation, exchange, reinterpret_cast<float*>(&shared() + 1), v);
#pragma unroll
  for (int quad = 0; quad < exchange.kQuads; ++quad) round_quad<T>(v + quad * 4, rotation.scale);
  if (group > kLanes) {
    const Reduced all = over_team(reduced_of<values>(v, nothing_of(Reduced{})));
    const auto scale = way.scale(all, blockIdx.x);
#pragma unroll
    for (int quad = 0; quad < exchange.kQuads; ++quad) {
      finish_quad<T>(way, v + quad * 4, scale, job.y, start + exchange.place(quad, thread));
    }
  } else {
#pragma unroll
    for (int quad = 0; quad < exchange.kQuads; ++quad) {
      const int64_t at = start + exchange.place(quad, thread);
      const Reduced reduced = over_lanes(reduced_of<4>(v + quad * 4, nothing_of(Reduced{})), group);
      finish_quad<T>(way, v + quad * 4, way.scale(reduced, at / 4 >> log_group), job.y, at);
    }
  }
}

}  // namespace qscale::cuda
