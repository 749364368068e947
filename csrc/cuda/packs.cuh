// Sixteen bytes of elements: what a thread loads and stores at once.
#pragma once

#include "cuda/device.cuh"
#include "numerics/float16.h"

namespace qscale::cuda {

template <class T>
constexpr int kPack = 16 / static_cast<int>(sizeof(T));

__device__ __forceinline__ uint4 load_pack(const void* x, int64_t pack) { return static_cast<const uint4*>(x)[pack]; }

__device__ __forceinline__ void store_pack(void* y, int64_t pack, uint4 words) {
  static_cast<uint4*>(y)[pack] = words;
}

// The elements of a word.
__device__ __forceinline__ void unpack_word(uint32_t word, float* v, float) { v[0] = float_of(word); }
__device__ __forceinline__ void unpack_word(uint32_t word, float* v, BFloat16) {
  v[0] = float_of(word << 16);
  v[1] = float_of(word & 0xffff0000u);
}
__device__ __forceinline__ void unpack_word(uint32_t word, float* v, Half) {
  __half2 halves;
  memcpy(&halves, &word, sizeof halves);
  const float2 both = __half22float2(halves);
  v[0] = both.x;
  v[1] = both.y;
}

template <class T>
__device__ __forceinline__ void unpack(uint4 words, float (&v)[kPack<T>]) {
  constexpr int each = kPack<T> / 4;
  unpack_word(words.x, v, T{});
  unpack_word(words.y, v + each, T{});
  unpack_word(words.z, v + 2 * each, T{});
  unpack_word(words.w, v + 3 * each, T{});
}

// Rounded to the dtype, ties to even. A NaN is the processor's own, not that of numerics/float16.h.
__device__ __forceinline__ uint32_t packed_word(const float* v, float) { return bits_of(v[0]); }
__device__ __forceinline__ uint32_t packed_word(const float* v, BFloat16) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(v[0], v[1]);
  uint32_t word;
  memcpy(&word, &both, sizeof word);
  return word;
}
__device__ __forceinline__ uint32_t packed_word(const float* v, Half) {
  const __half2 both = __floats2half2_rn(v[0], v[1]);
  uint32_t word;
  memcpy(&word, &both, sizeof word);
  return word;
}

// One element, rounded likewise, in the lower bits.
template <class T>
__device__ __forceinline__ uint32_t packed_word_of(float v, T) {
  const float both[2] = {v, 0.0f};
  const uint32_t word = packed_word(both, T{});
  return sizeof(T) == 4 ? word : word & 0xffffu;
}

template <class T>
__device__ __forceinline__ uint4 packed(const float (&v)[kPack<T>]) {
  constexpr int each = kPack<T> / 4;
  return make_uint4(packed_word(v, T{}), packed_word(v + each, T{}), packed_word(v + 2 * each, T{}),
                    packed_word(v + 3 * each, T{}));
}

}  // namespace qscale::cuda
