// Floats to FP6 codes: see cuda_fp8.h.
#pragma once

#include "cuda_fp8.h"

using __nv_fp6_storage_t = unsigned char;
enum __nv_fp6_interpretation_t { __NV_E2M3, __NV_E3M2 };

inline __nv_fp6_storage_t __nv_cvt_float_to_fp6(float x, __nv_fp6_interpretation_t kind, cudaRoundMode rounding) {
  return kind == __NV_E2M3 ? emulator::saturated_code(x, 3, 0, 0x1f, rounding)
                           : emulator::saturated_code(x, 2, -2, 0x1f, rounding);
}
