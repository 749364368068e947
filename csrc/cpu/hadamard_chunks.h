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

// Asks for the lines of elements that are wanted later. Few at a time: a processor has some ten or twenty lines on
// their way at once, and stands still when more are asked for.
template <class T>
[[gnu::always_inline]] inline void fetch(const T* x, int64_t count) {
  constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(T));
#pragma GCC unroll 16
  for (int64_t i = 0; i < count; i += line) __builtin_prefetch(x + i, 0, 2);
}

template <class V>
[[gnu::always_inline]] inline void add_and_subtract(typename V::Floats& a, typename V::Floats& b) {
  const typename V::Floats sum = V::add(a, b);
  b = V::subtract(a, b);
  a = sum;
}

// The stages between whole vectors that lie `from`, 2 * from, ... below `end` apart.
template <class V, int count, int from, int end>
[[gnu::always_inline]] inline void between_vectors(typename V::Floats* v) {
  if constexpr (from < end) {
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) {
      if ((i & from) == 0) add_and_subtract<V>(v[i], v[i + from]);
    }
    between_vectors<V, count, from * 2, end>(v);
  }
}

// The stages h, 2 * h, ... below `end` within each of `count` vectors. All take a stage before any takes the next: a
// processor looks some hundred instructions ahead, and so finds others there than those that wait for this one.
template <class V, int count, int h, int end>
[[gnu::always_inline]] inline void within_vectors(typename V::Floats* v) {
  if constexpr (h < end) {
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) v[i] = V::template butterfly<h>(v[i]);
    within_vectors<V, count, h * 2, end>(v);
  }
}

// All stages of blocks of 2**log_n elements, of which `vectors` registers hold one or more.
template <class V, class T, int log_n, int vectors>
[[gnu::always_inline]] inline void transform(const T* x, typename V::Floats* v) {
  constexpr bool first_in_pairs = even_odd<T> && log_n > 0;
  constexpr int log_within = first_in_pairs ? log_n - 1 : log_n;
#pragma GCC unroll 16
  for (int i = 0; i < vectors; i += 2) {
    load_pair<V>(x + i * V::width, v[i], v[i + 1]);
    if constexpr (first_in_pairs) add_and_subtract<V>(v[i], v[i + 1]);
  }
  within_vectors<V, vectors, 1, (log_within < 4 ? 1 << log_within : V::width)>(v);
  between_vectors<V, vectors, even_odd<T> ? 2 : 1, (1 << log_n) / V::width>(v);
}

// Blocks of 2**log_n elements, 2**log_size elements at a time, from x to y; where y is float scratch, pairs stay as
// they were loaded. `before` is called for each such part.
template <class V, bool scaled, int log_n, int log_size, class T, class Y, class Before>
void chunks(const T* x, Y* y, int64_t from, int64_t to, float scale, Before before) {
  constexpr int64_t size = int64_t{1} << log_size;
  constexpr int vectors = static_cast<int>(size / V::width);
  const auto factor = V::splat(scale);
  for (int64_t start = from; start < to; start += size) {
    before(start, size);
    typename V::Floats v[vectors];
    transform<V, T, log_n, vectors>(x + start, v);
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

// Blocks of 2**wanted elements, as many at a time as the registers hold.
template <class V, bool scaled, int log_n, class T, class Y, class Before>
void chunks_of(int wanted, const T* x, Y* y, int64_t count, float scale, Before before) {
  if constexpr (log_n < V::log_chunk) {
    if (wanted > log_n) return chunks_of<V, scaled, log_n + 1>(wanted, x, y, count, scale, before);
  }
  constexpr int least = log_n > 5 ? log_n : 5;
  const int64_t most = count >> V::log_chunk << V::log_chunk;
  chunks<V, scaled, log_n, V::log_chunk>(x, y, 0, most, scale, before);
  if constexpr (least < V::log_chunk) chunks<V, scaled, log_n, least>(x, y, most, count, scale, before);
}

}  // namespace
}  // namespace qscale::cpu
