// What the rules of the libraries share: steps that are rounded to the input's dtype, the ends of a group, elements.
#pragma once

#if defined(__CUDACC__) || defined(QSCALE_CUDA_EMULATOR)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

#include <cmath>

#include "numerics/float16.h"
#include "numerics/rounding.h"

namespace qscale::dialects {

// A float32 result rounded to a dtype and held as float32. The lower bits of a NaN are zero here, as they are in every
// NaN that was 16 bits wide or that the processor made, so that rounding cannot carry it into the sign. A GPU, whose own
// NaN has all bits set, has conversions that know a NaN.
QSCALE_HD float rounded_to(float value, float) { return value; }

QSCALE_HD float rounded_to(float value, BFloat16) {
#if defined(__CUDA_ARCH__) || defined(QSCALE_CUDA_EMULATOR)
  return __bfloat162float(__float2bfloat16_rn(value));
#else
  const uint32_t bits = bits_of(value);
  return float_of((bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u);
#endif
}

QSCALE_HD float rounded_to(float value, Half) {
#if defined(__CUDA_ARCH__) || defined(QSCALE_CUDA_EMULATOR)
  return __half2float(__float2half_rn(value));
#else
  const uint32_t magnitude = bits_of(value) & 0x7fffffffu;
  uint32_t normal = (magnitude + 0xfffu + (magnitude >> 13 & 1u)) & ~0x1fffu;
  normal = normal >= 0x47800000u && normal < 0x7f800000u ? 0x7f800000u : normal;  // from 65536 on
  const uint32_t subnormal = bits_of((float_of(magnitude) + 0.5f) - 0.5f);         // 0.5 has the spacing 2**-24
  return with_sign_of(float_of(magnitude < 0x38800000u ? subnormal : normal), value);
#endif
}

// One step of a library that computes in the dtype T of its input.
template <class T>
QSCALE_HD float in(float value) {
  return rounded_to(value, T{});
}

// torch.finfo of the dtypes.
QSCALE_HD float smallest_normal(float) { return 0x1p-126f; }
QSCALE_HD float smallest_normal(BFloat16) { return 0x1p-126f; }
QSCALE_HD float smallest_normal(Half) { return 0x1p-14f; }
QSCALE_HD float epsilon(float) { return 0x1p-23f; }
QSCALE_HD float epsilon(BFloat16) { return 0x1p-7f; }
QSCALE_HD float epsilon(Half) { return 0x1p-10f; }

// The least and the largest number of a group, 0 among them; both NaN where the group holds one.
struct Ends {
  float low, high;
};

// NaN stays NaN.
QSCALE_HD float at_least(float value, float least) { return value < least ? least : value; }
QSCALE_HD float at_most(float value, float most) { return value > most ? most : value; }
QSCALE_HD float between(float value, float low, float high) { return at_most(at_least(value, low), high); }

QSCALE_HD float infinity() { return float_of(0x7f800000u); }

// The values of a small float, as their rounding needs them. A power of two as a pattern, plus `shift`, is 1.5 times
// a power whose last bit is worth one step of the grid from the first power on. Fixed point is all subnormals: it ends
// below `smallest_normal`.
struct Element {
  float largest;
  float smallest_normal;
  uint32_t shift;
  int mantissa_bits;
  int largest_exponent;  // floor(log2(largest)): emax
};

QSCALE_HD Element element(int mantissa_bits, int min_exponent, float largest) {
  const uint32_t shift = static_cast<uint32_t>(23 - mantissa_bits) << 23 | 0x400000u;
  return {largest, power_of_two(min_exponent), shift, mantissa_bits, static_cast<int>(bits_of(largest) >> 23) - 127};
}

// In the order of ELEMENTS in qscale/formats/dialect_ops.py.
constexpr int64_t kElementCount = 6;
QSCALE_HD Element element(int64_t index) {
  const Element elements[kElementCount] = {
      element(3, -6, 448.0f),          // e4m3
      element(2, -14, 57344.0f),       // e5m2
      element(3, 0, 7.5f),             // e2m3
      element(2, -2, 28.0f),           // e3m2
      element(1, 0, 6.0f),             // e2m1
      element(7, 1, 127.0f / 64.0f),   // int8, in steps of 1/64
  };
  return elements[index];
}

QSCALE_HD Element e4m3() { return element(3, -6, 448.0f); }
QSCALE_HD Element e2m1() { return element(1, 0, 6.0f); }

// The pattern of 2**floor(log2 |value|), at least the smallest normal number of the element.
QSCALE_HD uint32_t binade(float value, const Element& e) {
  const uint32_t power = bits_of(value) & 0x7f800000u, least = bits_of(e.smallest_normal);
  return power > least ? power : least;
}

// The nearest value, ties to even, of one that is at most the largest. The sign of a zero is lost.
QSCALE_HD float nearest_held(float held, const Element& e) {
  const float shifter = float_of(binade(held, e) + e.shift);
  return (held + shifter) - shifter;
}

// The nearest value, ties to even, saturating; the sign is kept, and so is NaN.
QSCALE_HD float nearest(float value, const Element& e) {
  const float rounded = nearest_held(between(value, -e.largest, e.largest), e);
  return float_of(bits_of(rounded) | (bits_of(value) & 0x80000000u));
}

// A scale that elements are divided by and multiplied with.
struct Divisor {
  float scale;
};

// What elements are multiplied with before they are rounded, and after.
struct Factors {
  float before;
  float after;
};

// 2**exponent, held to what E8M0 has. A product by the inverse of a power of two is the quotient.
QSCALE_HD Factors e8m0(int exponent) {
  const int held = exponent < -127 ? -127 : exponent > 127 ? 127 : exponent;
  return {power_of_two(-held), power_of_two(held)};
}

}  // namespace qscale::dialects
