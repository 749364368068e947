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

  // Thirty-two elements: the even ones, then the odd ones. Widening needs no shuffle that way.
  static void load_even_odd(const BFloat16* x, Floats& even, Floats& odd) {
    const __m512i both = _mm512_loadu_si512(x);
    even = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
    odd = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(INT32_MIN >> 15)));
  }
  // Both at once in halves of 16 bits: the upper half goes up where the lower one is more than half, or is half and the
  // upper one odd; with the upper one's last bit ORed into the lower one, where that is more than half.
  static void store_even_odd(BFloat16* y, Floats even, Floats odd) {
    constexpr __mmask32 odd_halves = 0xaaaaaaaau;
    constexpr int first_or_both_others = 0xf8;
    const __m512i e = _mm512_castps_si512(even), o = _mm512_castps_si512(odd);
    const __m512i upper = _mm512_mask_mov_epi16(_mm512_srli_epi32(e, 16), odd_halves, o);
    const __m512i lower = _mm512_mask_mov_epi16(e, odd_halves, _mm512_slli_epi32(o, 16));
    const __m512i one = _mm512_set1_epi16(1);
    const __m512i sticky = _mm512_ternarylogic_epi32(lower, upper, one, first_or_both_others);
    const __mmask32 up = _mm512_cmpgt_epu16_mask(sticky, _mm512_set1_epi16(INT16_MIN));
    _mm512_storeu_si512(y, _mm512_mask_add_epi16(upper, up, upper, one));
  }
};

}  // namespace
}  // namespace qscale::cpu
