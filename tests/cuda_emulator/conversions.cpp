// The conversions of CUDA's headers over arrays: the emulator's or, with its headers, the toolkit's for the host.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp4.h>
#include <cuda_fp6.h>
#include <cuda_fp8.h>

#include <cstddef>

#include "numerics/float_quant.h"

namespace {

template <class Convert>
void each(const float* x, unsigned short* y, size_t count, Convert convert) {
  for (size_t i = 0; i < count; ++i) y[i] = convert(x[i]);
}

}  // namespace

extern "C" {

void half_to_float(const unsigned short* x, float* y, size_t count) {
  for (size_t i = 0; i < count; ++i) y[i] = __half2float(__ushort_as_half(x[i]));
}

void float_to_half(const float* x, unsigned short* y, size_t count) {
  for (size_t i = 0; i < count; ++i) y[i] = __half_as_ushort(__float2half_rn(x[i]));
}

void bfloat16_to_float(const unsigned short* x, float* y, size_t count) {
  for (size_t i = 0; i < count; ++i) y[i] = __bfloat162float(__ushort_as_bfloat16(x[i]));
}

void float_to_bfloat16(const float* x, unsigned short* y, size_t count) {
  for (size_t i = 0; i < count; ++i) y[i] = __bfloat16_as_ushort(__float2bfloat16_rn(x[i]));
}

void float_to_e4m3(const float* x, unsigned short* y, size_t count) {
  each(x, y, count, [](float v) { return __nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3); });
}

void float_to_e5m2(const float* x, unsigned short* y, size_t count) {
  each(x, y, count, [](float v) { return __nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E5M2); });
}

void float_to_e4m3_or_nan(const float* x, unsigned short* y, size_t count) {
  each(x, y, count, [](float v) { return __nv_cvt_float_to_fp8(v, __NV_NOSAT, __NV_E4M3); });
}

void float_to_e5m2_or_infinity(const float* x, unsigned short* y, size_t count) {
  each(x, y, count, [](float v) { return __nv_cvt_float_to_fp8(v, __NV_NOSAT, __NV_E5M2); });
}

void float_to_e2m3(const float* x, unsigned short* y, size_t count) {
  each(x, y, count, [](float v) { return __nv_cvt_float_to_fp6(v, __NV_E2M3, cudaRoundNearest); });
}

void float_to_e3m2(const float* x, unsigned short* y, size_t count) {
  each(x, y, count, [](float v) { return __nv_cvt_float_to_fp6(v, __NV_E3M2, cudaRoundNearest); });
}

void float_to_e2m1(const float* x, unsigned short* y, size_t count) {
  each(x, y, count, [](float v) { return __nv_cvt_float_to_fp4(v, __NV_E2M1, cudaRoundNearest); });
}

void e4m3_to_half(const unsigned short* x, unsigned short* y, size_t count) {
  for (size_t i = 0; i < count; ++i) y[i] = __half_raw(__nv_cvt_fp8_to_halfraw(static_cast<unsigned char>(x[i]), __NV_E4M3)).x;
}

void e5m2_to_half(const unsigned short* x, unsigned short* y, size_t count) {
  for (size_t i = 0; i < count; ++i) y[i] = __half_raw(__nv_cvt_fp8_to_halfraw(static_cast<unsigned char>(x[i]), __NV_E5M2)).x;
}

// What qscale's own arithmetic says, saturating; infinities too, but not NaNs.
void code_by_numerics(const float* x, unsigned short* y, size_t count, int mantissa_bits, int min_exponent,
                      float largest) {
  const qscale::FloatGrid grid{mantissa_bits, min_exponent, largest};
  each(x, y, count, [&](float v) {
    const uint32_t code = qscale::magnitude_code(fabsf(qscale::round_to_grid(v, grid)), grid);
    return static_cast<unsigned short>(code | (v < 0 || qscale::bits_of(v) >> 31 ? qscale::sign_code(grid) : 0u));
  });
}
}
