// Floats to FP8, FP6 and FP4 codes, and FP8 back to halves, to nearest, ties to even. The device's NaN in FP8 is 0x7f whatever its sign, as PTX
// says (the toolkit's host code keeps the sign, and in E5M2 some payload); FP6 and FP4 have none and take +largest. No
// device has confirmed it.
#pragma once

#include "cuda_fp16.h"

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

struct __half_raw {
  unsigned short x;
};
struct __half2_raw {
  unsigned short x, y;
};
// Every FP8 value is a half: E5M2 is its upper byte. E4M3 has one NaN, S.1111.111, and no infinity.
inline __half_raw __nv_cvt_fp8_to_halfraw(__nv_fp8_storage_t code, __nv_fp8_interpretation_t kind) {
  if (kind == __NV_E5M2) {
    const bool is_nan = (code & 0x7f) > 0x7c;
    return {static_cast<unsigned short>(is_nan ? 0x7fff : code << 8)};
  }
  if ((code & 0x7f) == 0x7f) return {0x7fff};
  const int exponent = code >> 3 & 15, steps = exponent == 0 ? code & 7 : 8 | (code & 7);
  const float magnitude = ldexpf(static_cast<float>(steps), (exponent == 0 ? 1 : exponent) - 10);
  return {__half_as_ushort(__float2half_rn((code & 0x80) != 0 ? -magnitude : magnitude))};
}
inline __half2_raw __nv_cvt_fp8x2_to_halfraw2(__nv_fp8x2_storage_t codes, __nv_fp8_interpretation_t kind) {
  return {__nv_cvt_fp8_to_halfraw(static_cast<unsigned char>(codes), kind).x,
          __nv_cvt_fp8_to_halfraw(static_cast<unsigned char>(codes >> 8), kind).x};
}
