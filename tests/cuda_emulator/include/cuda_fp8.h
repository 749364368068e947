// Floats to FP8, FP6 and FP4 codes, to nearest, ties to even. The device's NaN in FP8 is 0x7f whatever its sign, as PTX
// says (the toolkit's host code keeps the sign, and in E5M2 some payload); FP6 and FP4 have none and take +largest. No
// device has confirmed it.
#pragma once

#include "cuda_runtime.h"

using __nv_fp8_storage_t = unsigned char;
using __nv_fp8x2_storage_t = unsigned short;
enum __nv_saturation_t { __NV_NOSAT, __NV_SATFINITE };
enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };
enum cudaRoundMode { cudaRoundNearest, cudaRoundZero, cudaRoundPosInf, cudaRoundMinInf };

namespace emulator {

// The code of a magnitude, were there no largest one: codes count magnitudes upwards.
inline unsigned magnitude_code(float magnitude, int mantissa_bits, int min_exponent) {
  if (std::isinf(magnitude)) return 0xffffffffu;
  const int exponent = magnitude < ldexpf(1.0f, min_exponent) ? min_exponent : ilogbf(magnitude);
  const int steps = static_cast<int>(rintf(ldexpf(magnitude, mantissa_bits - exponent)));
  return static_cast<unsigned>((exponent - min_exponent) * (1 << mantissa_bits) + steps);
}

// Codes of a format without NaN or infinity, with the sign above the magnitude.
inline unsigned char saturated_code(float x, int mantissa_bits, int min_exponent, unsigned largest,
                                    cudaRoundMode rounding) {
  if (rounding != cudaRoundNearest) fail("only cudaRoundNearest is emulated", {"__nv_cvt", __FILE__, __LINE__});
  if (std::isnan(x)) return static_cast<unsigned char>(largest);
  const unsigned code = magnitude_code(fabsf(x), mantissa_bits, min_exponent);
  return static_cast<unsigned char>((code > largest ? largest : code) | (std::signbit(x) ? largest + 1 : 0));
}

}  // namespace emulator

inline __nv_fp8_storage_t __nv_cvt_float_to_fp8(float x, __nv_saturation_t saturate, __nv_fp8_interpretation_t kind) {
  if (std::isnan(x)) return 0x7f;
  const bool e4m3 = kind == __NV_E4M3;
  const unsigned largest = e4m3 ? 0x7eu : 0x7bu, beyond = saturate == __NV_SATFINITE ? largest : largest + 1;
  const unsigned code = emulator::magnitude_code(fabsf(x), e4m3 ? 3 : 2, e4m3 ? -6 : -14);
  return static_cast<unsigned char>((code > largest ? beyond : code) | (std::signbit(x) ? 0x80u : 0u));
}
inline __nv_fp8x2_storage_t __nv_cvt_float2_to_fp8x2(float2 x, __nv_saturation_t saturate,
                                                     __nv_fp8_interpretation_t kind) {
  return static_cast<unsigned short>(__nv_cvt_float_to_fp8(x.y, saturate, kind) << 8 |
                                     __nv_cvt_float_to_fp8(x.x, saturate, kind));
}
