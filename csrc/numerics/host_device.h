// How functions of this folder are declared: they are compiled for the host once per instruction set, and for CUDA.
#pragma once

#include <cstdint>
#include <cstring>

// Internal linkage on purpose: an inline function with external linkage that one instruction set compiles and another
// links would run AVX-512 on a machine that has none. Always inlined, so that loops over these functions vectorize.
#if defined(__CUDACC__)
#define QSCALE_HD static __host__ __device__ __forceinline__
#define QSCALE_HD_MEMBER __host__ __device__ __forceinline__
#else
#define QSCALE_HD [[gnu::always_inline]] static inline
#define QSCALE_HD_MEMBER [[gnu::always_inline]]
#endif

namespace qscale {

QSCALE_HD uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

QSCALE_HD float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace qscale
