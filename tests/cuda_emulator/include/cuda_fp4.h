// Floats to FP4 codes: see cuda_fp8.h.
#pragma once

#include "cuda_fp8.h"

using __nv_fp4_storage_t = unsigned char;
using __nv_fp4x2_storage_t = unsigned char;
enum __nv_fp4_interpretation_t { __NV_E2M1 };

inline __nv_fp4_storage_t __nv_cvt_float_to_fp4(float x, __nv_fp4_interpretation_t, cudaRoundMode rounding) {
  return emulator::saturated_code(x, 1, 0, 0x7, rounding);
}
inline __nv_fp4x2_storage_t __nv_cvt_float2_to_fp4x2(float2 x, __nv_fp4_interpretation_t kind, cudaRoundMode rounding) {
  return static_cast<unsigned char>(__nv_cvt_float_to_fp4(x.y, kind, rounding) << 4 |
                                    __nv_cvt_float_to_fp4(x.x, kind, rounding));
}
