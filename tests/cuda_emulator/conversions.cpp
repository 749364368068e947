// The conversions of CUDA's headers over arrays: the emulator's or, with the toolkit's headers, the toolkit's for the host.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstddef>

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
}
