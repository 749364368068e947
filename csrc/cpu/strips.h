// A function of every element, in loops of a fixed length that the compiler makes into vectors.
#pragma once

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include <type_traits>

#include "numerics/float16.h"

namespace qscale::cpu {
namespace {

// The lower bits of a NaN are zero, as they are in every NaN that was 16 bits wide or that the processor made: rounding
// cannot carry it into the sign.
QSCALE_HD uint32_t rounded_up(float value) {
  const uint32_t bits = bits_of(value);
  return bits + 0x7fffu + (bits >> 16 & 1u);
}

// Sixteen elements as floats, for what needs more than a function of each. What is stored in one piece should be loaded
// in one piece: the processor waits where it is not.
constexpr int64_t kStrip = 16;

QSCALE_HD void widen(const float* x, float* v) { memcpy(v, x, kStrip * sizeof(float)); }
QSCALE_HD void narrow(const float* v, float* y) { memcpy(y, v, kStrip * sizeof(float)); }

#if defined(__AVX512F__)
QSCALE_HD void widen(const BFloat16* x, float* v) {
  const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
  _mm512_storeu_si512(v, _mm512_slli_epi32(words, 16));
}
QSCALE_HD void narrow(const float* v, BFloat16* y) {
  uint32_t rounded[kStrip];
  for (int64_t i = 0; i < kStrip; ++i) rounded[i] = rounded_up(v[i]) >> 16;
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(y), _mm512_cvtepi32_epi16(_mm512_loadu_si512(rounded)));
}
QSCALE_HD void widen(const Half* x, float* v) {
  _mm512_storeu_ps(v, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x))));
}
QSCALE_HD void narrow(const float* v, Half* y) {
  const __m256i halves = _mm512_cvtps_ph(_mm512_loadu_ps(v), _MM_FROUND_TO_NEAREST_INT);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(y), halves);
}
#else
QSCALE_HD void widen(const BFloat16* x, float* v) {
  for (int64_t i = 0; i < kStrip; ++i) v[i] = to_float(x[i]);
}
QSCALE_HD void narrow(const float* v, BFloat16* y) {
  for (int64_t i = 0; i < kStrip; ++i) y[i].bits = static_cast<uint16_t>(rounded_up(v[i]) >> 16);
}
#if defined(__F16C__)
QSCALE_HD void widen(const Half* x, float* v) {
  for (int64_t i = 0; i < kStrip; i += 8) {
    _mm256_storeu_ps(v + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i))));
  }
}
QSCALE_HD void narrow(const float* v, Half* y) {
  for (int64_t i = 0; i < kStrip; i += 8) {
    const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(v + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y + i), halves);
  }
}
#else
QSCALE_HD void widen(const Half* x, float* v) {
  for (int64_t i = 0; i < kStrip; ++i) v[i] = to_float(x[i]);
}
QSCALE_HD void narrow(const float* v, Half* y) {
  for (int64_t i = 0; i < kStrip; ++i) from_float(v[i], y[i]);
}
#endif
#endif

template <class T, class Function>
[[gnu::always_inline]] inline void transform_widened(const T* x, T* y, Function function) {
  alignas(64) float v[kStrip];
  widen(x, v);
#pragma GCC unroll 1
  for (int64_t i = 0; i < kStrip; ++i) v[i] = function(v[i]);
  narrow(v, y);
}

// `ivdep`: y is x, or apart from it; no element depends on another. `unroll 1`: unrolled, a loop is no longer one.
template <int64_t N, class Function>
[[gnu::always_inline]] inline void transform_strip(const float* x, float* y, Function function) {
#pragma GCC ivdep
#pragma GCC unroll 1
  for (int64_t i = 0; i < N; ++i) y[i] = function(x[i]);
}

// Two elements in a word, the lower one and the upper one: no shuffle is needed. Sixteen would be half a vector.
template <int64_t N, class Function>
[[gnu::always_inline]] inline void transform_strip(const BFloat16* x, BFloat16* y, Function function) {
  if (N == kStrip) return transform_widened(x, y, function);
#pragma GCC ivdep
#pragma GCC unroll 1
  for (int64_t i = 0; i < N / 2; ++i) {
    uint32_t word;
    memcpy(&word, x + 2 * i, sizeof word);
    const uint32_t lower = rounded_up(function(float_of(word << 16)));
    const uint32_t upper = rounded_up(function(float_of(word & 0xffff0000u)));
    word = lower >> 16 | (upper & 0xffff0000u);
    memcpy(y + 2 * i, &word, sizeof word);
  }
}

template <int64_t N, class Function>
[[gnu::always_inline]] inline void transform_strip(const Half* x, Half* y, Function function) {
  for (int64_t start = 0; start < N; start += kStrip) transform_widened(x + start, y + start, function);
}

// Calls strip(x, y, length) for n elements in parts of 32 and 16, and for the rest in a buffer of 16.
template <class T, class Strip>
[[gnu::always_inline]] inline void in_strips(const T* x, T* y, int64_t n, Strip strip) {
  using Wide = std::integral_constant<int64_t, 32>;
  using Narrow = std::integral_constant<int64_t, kStrip>;
  int64_t i = 0;
  for (; i + Wide::value <= n; i += Wide::value) strip(x + i, y + i, Wide{});
  if (i + Narrow::value <= n) {
    strip(x + i, y + i, Narrow{});
    i += Narrow::value;
  }
  if (i < n) {
    T part[Narrow::value] = {};
    const size_t bytes = static_cast<size_t>(n - i) * sizeof(T);
    memcpy(part, x + i, bytes);
    strip(part, part, Narrow{});
    memcpy(y + i, part, bytes);
  }
}

}  // namespace
}  // namespace qscale::cpu
