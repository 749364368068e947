// Sixteen floats in one AVX-512 register (F, BW, DQ, VL).
#pragma once

#include <immintrin.h>

#include <cmath>

#include "cpu/group.h"

namespace qscale::cpu {
namespace {

struct Avx512 {
  static constexpr int64_t width = 16;
  static constexpr int64_t bytes = 64;
  static constexpr bool has_fma = true;
  static constexpr bool has_even_odd = true;
  using Floats = __m512;
  using Bits = __m512i;

  static __mmask16 first(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }

  static Floats widen(__m256i x, BFloat16) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
  }
  static Floats widen(__m256i x, Half) { return _mm512_cvtph_ps(x); }

  // vcvtneps2bf16 would flush subnormal numbers to zero, so the rounding is done on integers.
  static __m256i narrow(Floats v, BFloat16) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i top = _mm512_mask_mov_epi32(_mm512_srli_epi32(rounded, 16), is_nan, _mm512_set1_epi32(0x7fc0));
    return _mm512_cvtepi32_epi16(top);
  }
  static __m256i narrow(Floats v, Half) { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }

  static Floats load(const float* x) { return _mm512_loadu_ps(x); }
  static Floats load_first(const float* x, int64_t n) { return _mm512_maskz_loadu_ps(first(n), x); }
  static void store(float* y, Floats v) { _mm512_storeu_ps(y, v); }
  static void store_first(float* y, Floats v, int64_t n) { _mm512_mask_storeu_ps(y, first(n), v); }

  template <class T>
  static Floats load(const T* x) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)), T{});
  }
  template <class T>
  static Floats load_first(const T* x, int64_t n) {
    return widen(_mm256_maskz_loadu_epi16(first(n), x), T{});
  }
  template <class T>
  static void store(T* y, Floats v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(y), narrow(v, T{}));
  }
  template <class T>
  static void store_first(T* y, Floats v, int64_t n) {
    _mm256_mask_storeu_epi16(y, first(n), narrow(v, T{}));
  }

  // Thirty-two elements: the even ones, then the odd ones. Widening needs no shuffle that way.
  static void load_even_odd(const BFloat16* x, Floats& even, Floats& odd) {
    const __m512i both = _mm512_loadu_si512(x);
    even = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
    odd = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(INT32_MIN >> 15)));
  }
  // Both at once in halves of 16 bits: the upper half goes up where the lower one is more than half, or is half and the
  // upper one odd; with the upper one's last bit ORed into the lower one, where that is more than half. A NaN must have
  // a lower half of zeros, as every one has that comes of bfloat16 or of the processor: it does not go up.
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

  static Floats splat(float value) { return _mm512_set1_ps(value); }
  static Floats splat_halves(float low, float high) {
    return _mm512_mask_mov_ps(splat(low), static_cast<__mmask16>(0xff00u), splat(high));
  }
  static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
  static Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
  static Floats round(Floats a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static Floats negative_multiply_add(Floats a, Floats b, Floats c) { return _mm512_fnmadd_ps(a, b, c); }
  // a with those bits of b that are set in `sign`.
  static Floats with_sign_where(Floats a, Floats b, Floats sign) {
    constexpr int first_or_both_others = 0xf8;
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b),
                                                         _mm512_castps_si512(sign), first_or_both_others));
  }
  // min and max give their second operand where either is a NaN.
  static Floats clamp(Floats a, Floats low, Floats high) { return _mm512_min_ps(high, _mm512_max_ps(low, a)); }

  using Mask = __mmask16;
  // A NaN is not.
  static Mask between(Floats a, Floats low, Floats high) {
    return _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(a, low, _CMP_GE_OQ), a, high, _CMP_LE_OQ);
  }
  static Floats select(Mask which, Floats a, Floats b) { return _mm512_mask_mov_ps(b, which, a); }

  static Floats hold_magnitude(Floats a, Floats most) {
    constexpr int least_magnitude_with_the_sign_of_a = 0x2;
    return _mm512_range_ps(a, most, least_magnitude_with_the_sign_of_a);
  }
  static Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
  // 2**floor(log2 |a|); 0 for subnormal numbers.
  static Floats power_below(Floats a) { return _mm512_and_ps(a, _mm512_set1_ps(INFINITY)); }

  // Permutations of two registers use the low five bits of each index.
  struct Book {
    Floats midpoint[2], below[2], above[2];
  };
  static Book prepare(const Codebook& table) {
    const auto both = [](const float* from, Floats* to) { to[0] = load(from), to[1] = load(from + width); };
    Book book;
    both(table.midpoint, book.midpoint);
    both(table.below, book.below);
    both(table.above, book.above);
    return book;
  }
  static Floats nearest(Floats a, const Book& book) {
    const Floats place = multiply_add(a, splat(kBinsPerUnit), splat(kBinOfZero));
    const __m512i bin = _mm512_castps_si512(add(place, splat(0x1.8p23f)));
    const __mmask16 above = _mm512_cmp_ps_mask(a, _mm512_permutex2var_ps(book.midpoint[0], bin, book.midpoint[1]),
                                               _CMP_GT_OQ);
    const Floats below = _mm512_permutex2var_ps(book.below[0], bin, book.below[1]);
    return _mm512_mask_mov_ps(below, above, _mm512_permutex2var_ps(book.above[0], bin, book.above[1]));
  }

  static Bits no_bits() { return _mm512_setzero_si512(); }
  static Bits magnitudes32(Bits x) { return _mm512_and_si512(x, _mm512_set1_epi32(0x7fffffff)); }
  static Bits magnitudes16(Bits x) { return _mm512_and_si512(x, _mm512_set1_epi16(0x7fff)); }

  static Bits max_magnitude(Bits seen, const float* x) {
    return _mm512_max_epi32(seen, magnitudes32(_mm512_loadu_si512(x)));
  }
  static Bits max_magnitude_first(Bits seen, const float* x, int64_t n) {
    return _mm512_max_epi32(seen, magnitudes32(_mm512_maskz_loadu_epi32(first(n), x)));
  }
  // Sixteen vectors to the largest of each: neighbours are interleaved and halved until one vector is left.
  static void largest(const Bits* v, float* out, float) {
    Bits pairs[8];
    for (int i = 0; i < 8; ++i) {
      pairs[i] = _mm512_max_epi32(_mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]),
                                  _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]));
    }
    Bits fours[4];
    for (int i = 0; i < 4; ++i) {
      fours[i] = _mm512_max_epi32(_mm512_unpacklo_epi64(pairs[2 * i], pairs[2 * i + 1]),
                                  _mm512_unpackhi_epi64(pairs[2 * i], pairs[2 * i + 1]));
    }
    const auto both = [](Bits a, Bits b) {
      return _mm512_max_epi32(_mm512_shuffle_i32x4(a, b, kEvenQuarters), _mm512_shuffle_i32x4(a, b, kOddQuarters));
    };
    _mm512_storeu_si512(out, both(both(fours[0], fours[1]), both(fours[2], fours[3])));
  }
  template <class T>
  static void largest(const Bits* v, float* out, T) {
    Bits pairs[8];
    for (int i = 0; i < 8; ++i) {
      pairs[i] = _mm512_max_epi16(_mm512_unpacklo_epi16(v[2 * i], v[2 * i + 1]),
                                  _mm512_unpackhi_epi16(v[2 * i], v[2 * i + 1]));
    }
    Bits fours[4];
    for (int i = 0; i < 4; ++i) {
      fours[i] = _mm512_max_epi16(_mm512_unpacklo_epi32(pairs[2 * i], pairs[2 * i + 1]),
                                  _mm512_unpackhi_epi32(pairs[2 * i], pairs[2 * i + 1]));
    }
    Bits eights[2];
    for (int i = 0; i < 2; ++i) {
      eights[i] = _mm512_max_epi16(_mm512_unpacklo_epi64(fours[2 * i], fours[2 * i + 1]),
                                   _mm512_unpackhi_epi64(fours[2 * i], fours[2 * i + 1]));
    }
    const auto both = [](Bits a, Bits b) {
      return _mm512_max_epi16(_mm512_shuffle_i32x4(a, b, kEvenQuarters), _mm512_shuffle_i32x4(a, b, kOddQuarters));
    };
    const Bits quarters = both(eights[0], eights[1]);
    _mm512_storeu_ps(out, widen(_mm512_castsi512_si256(both(quarters, quarters)), T{}));
  }
  static constexpr int kEvenQuarters = 0x88, kOddQuarters = 0xdd;

  template <class T>
  static Bits max_magnitude(Bits seen, const T* x) {
    return _mm512_max_epi16(seen, magnitudes16(_mm512_loadu_si512(x)));
  }
  template <class T>
  static Bits max_magnitude_first(Bits seen, const T* x, int64_t n) {
    return _mm512_max_epi16(seen, magnitudes16(_mm512_maskz_loadu_epi16((1u << n) - 1u, x)));
  }
};

}  // namespace
}  // namespace qscale::cpu
