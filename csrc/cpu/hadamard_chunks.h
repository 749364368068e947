// The stages of a Hadamard transform that are done in registers: V is one of butterfly_{plain,avx2,avx512}.h.
//
// Thirty-two elements, a pair of vectors, are the unit of every loop. float and half pairs are in order; bfloat16 pairs
// hold the even elements, then the odd ones. Only the first five stages, which are here, know.
#pragma once

#include <cstdint>

#include "numerics/float16.h"

namespace qscale::cpu {
namespace {

constexpr int64_t kPair = 32;

template <class T>
constexpr bool even_odd = false;
template <>
constexpr bool even_odd<BFloat16> = true;

template <class V, class T>
[[gnu::always_inline]] inline void load_pair(const T* x, typename V::Floats& a, typename V::Floats& b) {
  if constexpr (even_odd<T>) {
    V::load_even_odd(x, a, b);
  } else {
    a = V::load(x);
    b = V::load(x + V::width);
  }
}

// A NaN among bfloat16 comes from a bfloat16 or is the processor's own, so its lower half is zero and rounding cannot
// carry it into the sign: store_even_odd does not look for one.
template <class V, class T>
[[gnu::always_inline]] inline void store_pair(T* y, const typename V::Floats& a, const typename V::Floats& b) {
  if constexpr (even_odd<T>) {
    V::store_even_odd(y, a, b);
  } else {
    V::store(y, a);
    V::store(y + V::width, b);
  }
}

template <class V>
[[gnu::always_inline]] inline void add_and_subtract(typename V::Floats& a, typename V::Floats& b) {
  const typename V::Floats sum = V::add(a, b);
  b = V::subtract(a, b);
  a = sum;
}

// The stages between whole vectors that lie `from`, 2 * from, ... apart.
template <class V, int count, int from, int step = 1>
[[gnu::always_inline]] inline void between_vectors(typename V::Floats* v) {
  if constexpr (from < count) {
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) {
      if ((i & from) == 0) add_and_subtract<V>(v[i * step], v[(i + from) * step]);
    }
    between_vectors<V, count, from * 2, step>(v);
  }
}

template <class V, int stages>
[[gnu::always_inline]] inline typename V::Floats within_vector(typename V::Floats v) {
  if constexpr (stages >= 1) v = V::template butterfly<1>(v);
  if constexpr (stages >= 2) v = V::template butterfly<2>(v);
  if constexpr (stages >= 3) v = V::template butterfly<4>(v);
  if constexpr (stages >= 4) v = V::template butterfly<8>(v);
  return v;
}

// All stages of 2**log_n elements, in registers; of 32 elements, 32 / 2**log_n blocks of them, where that is more.
template <class V, class T, int log_n>
[[gnu::always_inline]] inline void transform(const T* x, typename V::Floats* v) {
  constexpr int vectors = log_n > 5 ? 1 << (log_n - 4) : 2;
  constexpr int in_pairs = even_odd<T> ? 1 : 0;  // stages done before those within a vector
  constexpr int left = log_n - (log_n > 0 ? in_pairs : 0);
#pragma GCC unroll 16
  for (int i = 0; i < vectors; i += 2) {
    load_pair<V>(x + i * V::width, v[i], v[i + 1]);
    if constexpr (even_odd<T> && log_n > 0) add_and_subtract<V>(v[i], v[i + 1]);
    v[i] = within_vector<V, left < 4 ? left : 4>(v[i]);
    v[i + 1] = within_vector<V, left < 4 ? left : 4>(v[i + 1]);
    if constexpr (!even_odd<T> && log_n > 4) add_and_subtract<V>(v[i], v[i + 1]);
  }
  between_vectors<V, vectors, 2>(v);
}

// Chunks of 2**log_n elements, from x to y; where y is float scratch, pairs stay as they were loaded.
template <class V, class T, class Y, int log_n, bool scaled>
void chunks(const T* x, Y* y, int64_t count, float scale) {
  constexpr int64_t size = log_n > 5 ? int64_t{1} << log_n : kPair;
  constexpr int vectors = static_cast<int>(size / V::width);
  const auto factor = V::splat(scale);
  for (int64_t start = 0; start < count; start += size) {
    typename V::Floats v[vectors];
    transform<V, T, log_n>(x + start, v);
#pragma GCC unroll 16
    for (int i = 0; i < vectors; i += 2) {
      if constexpr (scaled) {
        v[i] = V::multiply(v[i], factor);
        v[i + 1] = V::multiply(v[i + 1], factor);
      }
      store_pair<V>(y + start + i * V::width, v[i], v[i + 1]);
    }
  }
}

template <class V, class T, class Y, bool scaled, int log_n>
void chunks_of(int wanted, const T* x, Y* y, int64_t count, float scale) {
  if constexpr (log_n < V::log_chunk) {
    if (wanted > log_n) return chunks_of<V, T, Y, scaled, log_n + 1>(wanted, x, y, count, scale);
  }
  chunks<V, T, Y, log_n, scaled>(x, y, count, scale);
}

}  // namespace
}  // namespace qscale::cpu
