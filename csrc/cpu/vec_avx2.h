// Sixteen floats in two AVX2 registers (AVX2, F16C, FMA).
#pragma once

#include <immintrin.h>

#include <cmath>

#include "cpu/group.h"

namespace qscale::cpu {
namespace {

struct Avx2 {
  static constexpr int64_t width = 16;
  static constexpr int64_t bytes = 64;
  static constexpr bool has_fma = true;
  static constexpr bool has_even_odd = true;
  struct Floats {
    __m256 low, high;
  };
  struct Bits {
    __m256i low, high;
  };

  static __m256 widen(__m128i x, BFloat16) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
  }
  static __m256 widen(__m128i x, Half) { return _mm256_cvtph_ps(x); }

  static __m128i narrow(__m256 v, BFloat16) {
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i rounded = _mm256_srli_epi32(rounded_bits(v), 16);
    const __m256i top = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), is_nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
  }
  static __m128i narrow(__m256 v, Half) { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }

  static Floats load(const float* x) { return {_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)}; }
  static void store(float* y, Floats v) {
    _mm256_storeu_ps(y, v.low);
    _mm256_storeu_ps(y + 8, v.high);
  }
  template <class T>
  static Floats load(const T* x) {
    const __m128i* halves = reinterpret_cast<const __m128i*>(x);
    return {widen(_mm_loadu_si128(halves), T{}), widen(_mm_loadu_si128(halves + 1), T{})};
  }
  template <class T>
  static void store(T* y, Floats v) {
    __m128i* halves = reinterpret_cast<__m128i*>(y);
    _mm_storeu_si128(halves, narrow(v.low, T{}));
    _mm_storeu_si128(halves + 1, narrow(v.high, T{}));
  }
  // AVX2 has no masks for 16-bit elements: a short vector goes through the stack.
  template <class T>
  static Floats load_first(const T* x, int64_t n) {
    T padded[width] = {};
    memcpy(padded, x, static_cast<size_t>(n) * sizeof(T));
    return load(padded);
  }
  template <class T>
  static void store_first(T* y, Floats v, int64_t n) {
    T padded[width];
    store(padded, v);
    memcpy(y, padded, static_cast<size_t>(n) * sizeof(T));
  }

  // Thirty-two elements: the even ones, then the odd ones. Widening needs no shuffle that way.
  static void load_even_odd(const BFloat16* x, Floats& even, Floats& odd) {
    const __m256i* parts = reinterpret_cast<const __m256i*>(x);
    const __m256i low = _mm256_loadu_si256(parts), high = _mm256_loadu_si256(parts + 1);
    const __m256i upper = _mm256_set1_epi32(INT32_MIN >> 15);
    even = {_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(high, 16))};
    odd = {_mm256_castsi256_ps(_mm256_and_si256(low, upper)), _mm256_castsi256_ps(_mm256_and_si256(high, upper))};
  }
  // A NaN must have a lower half of zeros, as every one has that comes of bfloat16 or of the processor: rounding then
  // cannot carry it into the sign.
  static void store_even_odd(BFloat16* y, Floats even, Floats odd) {
    __m256i* parts = reinterpret_cast<__m256i*>(y);
    _mm256_storeu_si256(parts, interleaved(even.low, odd.low));
    _mm256_storeu_si256(parts + 1, interleaved(even.high, odd.high));
  }
  static __m256i interleaved(__m256 even, __m256 odd) {
    return _mm256_blend_epi16(_mm256_srli_epi32(rounded_bits(even), 16), rounded_bits(odd), 0xaa);
  }
  // The upper half is the bfloat16.
  static __m256i rounded_bits(__m256 v) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  }

  static Floats splat(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
  static Floats splat_halves(float low, float high) { return {_mm256_set1_ps(low), _mm256_set1_ps(high)}; }
  static Floats add(Floats a, Floats b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
  static Floats subtract(Floats a, Floats b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
  static Floats multiply(Floats a, Floats b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
  static Floats divide(Floats a, Floats b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
  static Floats round(Floats a) {
    constexpr int even = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(a.low, even), _mm256_round_ps(a.high, even)};
  }
  static Floats multiply_add(Floats a, Floats b, Floats c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static Floats negative_multiply_add(Floats a, Floats b, Floats c) {
    return {_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
  }
  // a with those bits of b that are set in `sign`.
  static __m256 with_sign_where(__m256 a, __m256 b, __m256 sign) { return _mm256_or_ps(a, _mm256_and_ps(b, sign)); }
  static Floats with_sign_where(Floats a, Floats b, Floats sign) {
    return {with_sign_where(a.low, b.low, sign.low), with_sign_where(a.high, b.high, sign.high)};
  }
  // min and max give their second operand where either is a NaN.
  static Floats clamp(Floats a, Floats low, Floats high) {
    return {_mm256_min_ps(high.low, _mm256_max_ps(low.low, a.low)),
            _mm256_min_ps(high.high, _mm256_max_ps(low.high, a.high))};
  }

  using Mask = Floats;
  // A NaN is not.
  static __m256 between(__m256 a, __m256 low, __m256 high) {
    return _mm256_and_ps(_mm256_cmp_ps(a, low, _CMP_GE_OQ), _mm256_cmp_ps(a, high, _CMP_LE_OQ));
  }
  static Mask between(Floats a, Floats low, Floats high) {
    return {between(a.low, low.low, high.low), between(a.high, low.high, high.high)};
  }
  static Floats select(Mask which, Floats a, Floats b) {
    return {_mm256_blendv_ps(b.low, a.low, which.low), _mm256_blendv_ps(b.high, a.high, which.high)};
  }

  static __m256 hold_magnitude(__m256 a, __m256 most) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_min_ps(most, _mm256_andnot_ps(sign, a)), _mm256_and_ps(sign, a));
  }
  static Floats hold_magnitude(Floats a, Floats most) {
    return {hold_magnitude(a.low, most.low), hold_magnitude(a.high, most.high)};
  }
  static Floats larger(Floats a, Floats b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
  // 2**floor(log2 |a|); 0 for subnormal numbers.
  static Floats power_below(Floats a) {
    const __m256 exponents = _mm256_set1_ps(INFINITY);
    return {_mm256_and_ps(a.low, exponents), _mm256_and_ps(a.high, exponents)};
  }

  struct Book {
    __m256 values[2], tree[2];
  };
  static Book prepare(const Codebook& table) {
    return {{_mm256_loadu_ps(table.values), _mm256_loadu_ps(table.values + 8)},
            {_mm256_loadu_ps(table.tree), _mm256_loadu_ps(table.tree + 8)}};
  }
  // A permutation uses the low three bits of each index: nodes 1 to 7 are in the lower half of the tree, 8 to 15 in
  // the upper; bit 3 of the index, moved to the sign, picks the half of the values.
  static __m256 nearest(__m256 a, const Book& book) {
    __m256i node = _mm256_set1_epi32(1);
    for (int level = 0; level < 4; ++level) {
      const __m256 middle = _mm256_permutevar8x32_ps(book.tree[level / 3], node);
      const __m256i above = _mm256_castps_si256(_mm256_cmp_ps(a, middle, _CMP_GT_OQ));
      node = _mm256_sub_epi32(_mm256_add_epi32(node, node), above);
    }
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(book.values[0], node),
                            _mm256_permutevar8x32_ps(book.values[1], node),
                            _mm256_castsi256_ps(_mm256_slli_epi32(node, 28)));
  }
  static Floats nearest(Floats a, const Book& book) { return {nearest(a.low, book), nearest(a.high, book)}; }

  static Bits no_bits() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static __m256i magnitudes(const __m256i* x, float) {
    return _mm256_and_si256(_mm256_loadu_si256(x), _mm256_set1_epi32(0x7fffffff));
  }
  template <class T>
  static __m256i magnitudes(const __m256i* x, T) {
    return _mm256_and_si256(_mm256_loadu_si256(x), _mm256_set1_epi16(0x7fff));
  }
  static __m256i larger(__m256i a, __m256i b, float) { return _mm256_max_epi32(a, b); }
  template <class T>
  static __m256i larger(__m256i a, __m256i b, T) {
    return _mm256_max_epi16(a, b);
  }

  template <class T>
  static Bits max_magnitude(Bits seen, const T* x) {
    const __m256i* parts = reinterpret_cast<const __m256i*>(x);
    return {larger(seen.low, magnitudes(parts, T{}), T{}), larger(seen.high, magnitudes(parts + 1, T{}), T{})};
  }
  template <class T>
  static Bits max_magnitude_first(Bits seen, const T* x, int64_t n) {
    T padded[bytes / static_cast<int64_t>(sizeof(T))] = {};
    memcpy(padded, x, static_cast<size_t>(n) * sizeof(T));
    return max_magnitude(seen, padded);
  }
  static void largest(const Bits* groups, float* out, float) {
    for (int64_t g = 0; g < kTileGroups; ++g) {
      out[g] = float_of(largest32(_mm256_max_epi32(groups[g].low, groups[g].high)));
    }
  }
  template <class T>
  static void largest(const Bits* groups, float* out, T) {
    for (int64_t g = 0; g < kTileGroups; ++g) {
      const __m256i all = _mm256_max_epi16(groups[g].low, groups[g].high);
      const __m256i lower = _mm256_and_si256(all, _mm256_set1_epi32(0xffff));
      const uint32_t found = largest32(_mm256_max_epi32(_mm256_srli_epi32(all, 16), lower));
      out[g] = to_float(T{static_cast<uint16_t>(found)});
    }
  }
  static uint32_t largest32(__m256i eight) {
    const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1))));
  }
};

}  // namespace
}  // namespace qscale::cpu
