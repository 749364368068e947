// What a Hadamard transform needs of AVX2 beyond vec_avx2.h.
#pragma once

#include "cpu/vec_avx2.h"

namespace qscale::cpu {
namespace {

struct ButterflyAvx2 : Avx2 {
  static constexpr int log_chunk = 6;  // 4 vectors, 8 of 16 registers
  static constexpr int log_radix = 2;
  static constexpr int mix_rows = 2;

  static Floats add(Floats a, Floats b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
  static Floats subtract(Floats a, Floats b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }

  // Lanes i and i + h become their sum and difference. The product with +-1 is exact: one rounding, that of the sum.
  template <int h>
  static Floats butterfly(Floats v) {
    if constexpr (h == 8) {
      return {_mm256_add_ps(v.low, v.high), _mm256_sub_ps(v.low, v.high)};
    } else {
      constexpr auto sign = [](int lane) { return (lane & h) != 0 ? -1.0f : 1.0f; };
      const __m256 signs = _mm256_setr_ps(sign(0), sign(1), sign(2), sign(3), sign(4), sign(5), sign(6), sign(7));
      return {_mm256_fmadd_ps(v.low, signs, swapped<h>(v.low)), _mm256_fmadd_ps(v.high, signs, swapped<h>(v.high))};
    }
  }
  template <int h>
  static __m256 swapped(__m256 v) {
    if constexpr (h == 1) return _mm256_permute_ps(v, 0xb1);
    if constexpr (h == 2) return _mm256_permute_ps(v, 0x4e);
    if constexpr (h == 4) return _mm256_permute2f128_ps(v, v, 0x01);
  }
};

}  // namespace
}  // namespace qscale::cpu
