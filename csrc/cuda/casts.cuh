// The formats that the device converts to and from by itself, two numbers at a time: FP8 from SM 8.9 on, to the bits of
// numerics/float_quant.h. FP4 is left to that: its conversions are of single members of a family of devices (SM 10.0a,
// 12.0a), and the library is compiled for families. Values under the groups' own scales are left to it as well, which
// takes no more instructions there than two conversions each way.
#pragma once

#include "cuda/device.cuh"
#include "numerics/float_quant.h"

// Under the tests' emulator, where they are asked for.
#if (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890) || defined(QSCALE_EMULATED_CASTS)
#define QSCALE_FP8_CASTS 1
#endif
#if defined(QSCALE_EMULATED_CASTS)
#include <cuda_fp8.h>
#endif

namespace qscale::cuda {

enum class Cast : int32_t { none, e4m3, e5m2 };

// Saturating, ties to even.
__device__ __forceinline__ Cast cast_of(const FloatGrid& grid) {
#if defined(QSCALE_FP8_CASTS)
  if (grid.rounding != Rounding::even) return Cast::none;
  if (grid.mantissa_bits == 3 && grid.min_exponent == -6 && grid.largest == 448.0f) return Cast::e4m3;
  if (grid.mantissa_bits == 2 && grid.min_exponent == -14 && grid.largest == 57344.0f) return Cast::e5m2;
#else
  static_cast<void>(grid);
#endif
  return Cast::none;
}

// The codes of two numbers, that of the first in the lower byte; of a NaN it is 0x7f. Not for Cast::none.
__device__ __forceinline__ uint16_t cast_codes([[maybe_unused]] float first, [[maybe_unused]] float second,
                                                       [[maybe_unused]] Cast cast) {
  uint16_t codes = 0;
#if defined(__CUDA_ARCH__) && defined(QSCALE_FP8_CASTS)
  if (cast == Cast::e4m3) {
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %2, %1;" : "=h"(codes) : "f"(first), "f"(second));
  } else {
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %2, %1;" : "=h"(codes) : "f"(first), "f"(second));
  }
#elif defined(QSCALE_FP8_CASTS)
  codes = __nv_cvt_float2_to_fp8x2({first, second}, __NV_SATFINITE, cast == Cast::e4m3 ? __NV_E4M3 : __NV_E5M2);
#endif
  return codes;
}

// What two codes stand for.
__device__ __forceinline__ float2 values_of_codes([[maybe_unused]] uint16_t codes, [[maybe_unused]] Cast cast) {
  __half2 values{};
#if defined(__CUDA_ARCH__) && defined(QSCALE_FP8_CASTS)
  uint32_t word;
  if (cast == Cast::e4m3) {
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(word) : "h"(codes));
  } else {
    asm("cvt.rn.f16x2.e5m2x2 %0, %1;" : "=r"(word) : "h"(codes));
  }
  memcpy(&values, &word, sizeof values);
#elif defined(QSCALE_FP8_CASTS)
  const __half2_raw raw = __nv_cvt_fp8x2_to_halfraw2(codes, cast == Cast::e4m3 ? __NV_E4M3 : __NV_E5M2);
  values = {__ushort_as_half(raw.x), __ushort_as_half(raw.y)};
#endif
  return __half22float2(values);
}

}  // namespace qscale::cuda
