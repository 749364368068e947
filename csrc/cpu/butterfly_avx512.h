// What a Hadamard transform needs of AVX-512 beyond vec_avx512.h.
#pragma once

#include "cpu/vec_avx512.h"

namespace qscale::cpu {
namespace {

struct ButterflyAvx512 : Avx512 {
  static constexpr int log_chunk = 8;  // 16 of 32 registers
  static constexpr int log_radix = 3;
  static constexpr int mix_rows = 4;

  static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }

  // Lanes i and i + h become their sum and difference. The product with +-1 is exact: one rounding, that of the sum.
  template <int h>
  static Floats butterfly(Floats v) {
    constexpr auto sign = [](int lane) { return (lane & h) != 0 ? -1.0f : 1.0f; };
    const Floats signs = _mm512_setr_ps(sign(0), sign(1), sign(2), sign(3), sign(4), sign(5), sign(6), sign(7),
                                        sign(8), sign(9), sign(10), sign(11), sign(12), sign(13), sign(14), sign(15));
    return _mm512_fmadd_ps(v, signs, swapped<h>(v));
  }
  template <int h>
  static Floats swapped(Floats v) {
    constexpr int neighbours = 0xb1, halves = 0x4e;
    if constexpr (h == 1) return _mm512_permute_ps(v, neighbours);
    if constexpr (h == 2) return _mm512_permute_ps(v, halves);
    if constexpr (h == 4) return _mm512_shuffle_f32x4(v, v, neighbours);
    if constexpr (h == 8) return _mm512_shuffle_f32x4(v, v, halves);
  }
};

}  // namespace
}  // namespace qscale::cpu
