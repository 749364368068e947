// Strips of elements as float32 and back, in loops of a fixed length that the compiler makes into vectors.
#pragma once

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "numerics/float16.h"

namespace qscale::cpu {
namespace {

template <int64_t N>
void widen(const float* x, float (&v)[N]) {
  memcpy(v, x, sizeof v);
}
template <int64_t N>
void narrow(const float (&v)[N], float* y) {
  memcpy(y, v, sizeof v);
}

// Two elements in a word: the lower ones, then the upper ones, which needs no shuffle.
template <int64_t N>
void widen(const BFloat16* x, float (&v)[N]) {
  uint32_t words[N / 2];
  memcpy(words, x, sizeof words);
  for (int64_t i = 0; i < N / 2; ++i) v[i] = float_of(words[i] << 16);
  for (int64_t i = 0; i < N / 2; ++i) v[N / 2 + i] = float_of(words[i] & 0xffff0000u);
}

// The lower bits of a NaN are zero, as they are in every NaN that was 16 bits wide or that the processor made: rounding
// cannot carry it into the sign.
QSCALE_HD uint32_t rounded_up(float value) {
  const uint32_t bits = bits_of(value);
  return bits + 0x7fffu + (bits >> 16 & 1u);
}
template <int64_t N>
void narrow(const float (&v)[N], BFloat16* y) {
  uint32_t words[N / 2];
  for (int64_t i = 0; i < N / 2; ++i) words[i] = rounded_up(v[i]) >> 16 | (rounded_up(v[N / 2 + i]) & 0xffff0000u);
  memcpy(y, words, sizeof words);
}

#if defined(__F16C__)
template <int64_t N>
void widen(const Half* x, float (&v)[N]) {
  for (int64_t i = 0; i < N; i += 8) {
    _mm256_storeu_ps(v + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i))));
  }
}
template <int64_t N>
void narrow(const float (&v)[N], Half* y) {
  for (int64_t i = 0; i < N; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(v + i), _MM_FROUND_TO_NEAREST_INT));
  }
}
#else
template <int64_t N>
void widen(const Half* x, float (&v)[N]) {
  for (int64_t i = 0; i < N; ++i) v[i] = to_float(x[i]);
}
template <int64_t N>
void narrow(const float (&v)[N], Half* y) {
  for (int64_t i = 0; i < N; ++i) from_float(v[i], y[i]);
}
#endif

template <int64_t N, class T, class Function>
void transform_strip(const T* x, T* y, Function function) {
  float v[N];
  widen(x, v);
  for (float& value : v) value = function(value);
  narrow(v, y);
}

// y = function(x) for n elements.
template <class T, class Function>
void transform(const T* x, T* y, int64_t n, Function function) {
  constexpr int64_t wide = 32, narrow = 16;
  int64_t i = 0;
  for (; i + wide <= n; i += wide) transform_strip<wide>(x + i, y + i, function);
  for (; i + narrow <= n; i += narrow) transform_strip<narrow>(x + i, y + i, function);
  if (i < n) {
    T part[narrow] = {};
    const size_t bytes = static_cast<size_t>(n - i) * sizeof(T);
    memcpy(part, x + i, bytes);
    transform_strip<narrow>(part, part, function);
    memcpy(y + i, part, bytes);
  }
}

}  // namespace
}  // namespace qscale::cpu
