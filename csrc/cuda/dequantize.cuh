// Codes back to values: one read and one write of memory, the table in shared memory.
#pragma once

#include "cuda/dequantize.h"
#include "cuda/fake_quant.cuh"

namespace qscale::cuda {

// A job with its table: a kernel's arguments are its own.
struct Codes {
  Dequantize job;
  int64_t scale_count;
  float values[Dequantize::kAllCodes];
};

// In shared memory, for all threads of a block, which call it.
__device__ __forceinline__ const float* shared_table(const Codes& codes) {
  static_assert(kThreads == Dequantize::kAllCodes);
  float* table = dynamic_shared<float>();
  table[threadIdx.x] = codes.values[threadIdx.x];
  __syncthreads();
  return table;
}

struct ScaleAndZero {
  float scale, zero;
};
__device__ __forceinline__ ScaleAndZero of_group(const Codes& codes, int64_t number) {
  const int64_t which = codes.scale_count == 0 ? number : codes.scale_count == 1 ? 0 : number % codes.scale_count;
  return {codes.job.scale[which], codes.job.zero_point == nullptr ? 0.0f : codes.job.zero_point[which]};
}

__device__ __forceinline__ float restored(float value, ScaleAndZero of, bool has_zeros) {
  return (has_zeros ? (value - of.zero) + 0.0f : value) * of.scale;
}

// The codes of a pack of values: up to eight bytes.
template <class T, bool packed>
__device__ __forceinline__ uint2 load_codes(const uint8_t* codes, int64_t pack) {
  constexpr int bytes = packed ? kPack<T> / 2 : kPack<T>;
  if constexpr (bytes == 8) return reinterpret_cast<const uint2*>(codes)[pack];
  if constexpr (bytes == 4) return {reinterpret_cast<const uint32_t*>(codes)[pack], 0u};
  return {reinterpret_cast<const uint16_t*>(codes)[pack], 0u};
}
template <bool packed>
__device__ __forceinline__ uint32_t code_in(uint2 words, int i) {
  if constexpr (packed) return words.x >> 4 * i & 15u;
  return (i < 4 ? words.x >> 8 * i : words.y >> 8 * (i - 4)) & 255u;
}

// Groups of whole packs one behind the other; as in narrow_groups, `log_packs` is -1 where their packs are no power of
// two.
template <class T, bool packed, int at_once>
__global__ void __launch_bounds__(kThreads)
    dequantize_packs(const __grid_constant__ Codes codes, int log_packs, int64_t packs_in_group, int64_t packs) {
  const float* table = shared_table(codes);
  const bool has_zeros = codes.job.zero_point != nullptr;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * (kThreads * at_once) + threadIdx.x;
  uint2 words[at_once];
  ScaleAndZero of[at_once];
#pragma unroll
  for (int k = 0; k < at_once; ++k) {
    const int64_t pack = first + k * kThreads;
    if (pack >= packs) continue;
    words[k] = load_codes<T, packed>(codes.job.codes, pack);
    of[k] = of_group(codes, log_packs < 0 ? pack / packs_in_group : pack >> log_packs);
  }
#pragma unroll
  for (int k = 0; k < at_once; ++k) {
    const int64_t pack = first + k * kThreads;
    if (pack >= packs) return;
    float v[kPack<T>];
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) v[i] = restored(table[code_in<packed>(words[k], i)], of[k], has_zeros);
    store_pack(codes.job.y, pack, qscale::cuda::packed<T>(v));
  }
}

// Any layout and alignment, an element to a thread.
template <class T>
__global__ void __launch_bounds__(kThreads) dequantize_any(const __grid_constant__ Codes codes, int64_t count) {
  const float* table = shared_table(codes);
  const Dequantize& job = codes.job;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= count) return;
  const int64_t row = at / job.layout.axis, column = at - row * job.layout.axis;
  const uint8_t* from = job.codes + row * code_bytes(job.layout.axis, job.packed);
  const uint32_t code = job.packed ? from[column / 2] >> column % 2 * 4 & 15u : from[column];
  const ScaleAndZero of = of_group(codes, group_at(job.layout, row, column));
  from_float(restored(table[code], of, job.zero_point != nullptr), static_cast<T*>(job.y)[at]);
}

}  // namespace qscale::cuda
