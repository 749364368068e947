// What all formats do with a group: its largest magnitude, and a function of every element.
// V is one of vec_plain.h, vec_avx2.h, vec_avx512.h.
#pragma once

#include <type_traits>

#include "cpu/kernels.h"
#include "numerics/float16.h"

namespace qscale::cpu {
namespace {

// Magnitudes are compared as integers: their order is that of the floats, with NaN above infinity, so a NaN stays.
// 16-bit elements are compared before they are widened, twice as many at a time.
template <class V, class T>
float absmax(const T* x, int64_t n) {
  constexpr int64_t step = V::bytes / static_cast<int64_t>(sizeof(T));
  typename V::Bits even = V::no_bits(), odd = V::no_bits();
  int64_t i = 0;
  for (; i + 2 * step <= n; i += 2 * step) {
    even = V::max_magnitude(even, x + i);
    odd = V::max_magnitude(odd, x + i + step);
  }
  for (; i + step <= n; i += step) even = V::max_magnitude(even, x + i);
  if (i < n) odd = V::max_magnitude_first(odd, x + i, n - i);
  return V::largest(even, odd, T{});
}

template <class V, class T>
uint32_t absmax_bits(const void* x, int64_t n) {
  return bits_of(absmax<V>(static_cast<const T*>(x), n));
}

// bfloat16 is taken 32 elements at a time as its even and its odd ones: widening and narrowing are cheaper so.
template <class V, class T, class Function>
void transform(const T* x, T* y, int64_t n, Function function) {
  int64_t i = 0;
  if constexpr (V::has_even_odd && std::is_same_v<T, BFloat16>) {
    for (; i + 2 * V::width <= n; i += 2 * V::width) {
      typename V::Floats even, odd;
      V::load_even_odd(x + i, even, odd);
      V::store_even_odd(y + i, function(even), function(odd));
    }
  }
  for (; i + V::width <= n; i += V::width) V::store(y + i, function(V::load(x + i)));
  if (i < n) V::store_first(y + i, function(V::load_first(x + i, n - i)), n - i);
}

// x / scale at a fifth of the division's cost, correctly rounded down to the quotient whose remainder underflows. Two
// Newton steps on the quotient: the first makes it faithful, and by Markstein's theorem (IBM J. Res. Dev. 34, 1990) the
// second then makes it exact, given a correctly rounded reciprocal and remainders that are multiples of 2**-149.
template <class V>
typename V::Floats quotient(typename V::Floats x, typename V::Floats scale, typename V::Floats reciprocal) {
  auto q = V::multiply(x, reciprocal);
  q = V::multiply_add(V::negative_multiply_add(q, scale, x), reciprocal, q);
  q = V::multiply_add(V::negative_multiply_add(q, scale, x), reciprocal, q);
  return V::with_sign_of(q, x);
}

// From this scale on, quotients down to 2**exponent are exact; smaller ones must not matter beyond their sign.
QSCALE_HD float smallest_fast_scale(int exponent) {
  const int lowest = -103 - exponent;
  return power_of_two(lowest < -100 ? -100 : lowest);
}

// y = function(x / scale); a quotient has the sign of x, and may be inexact where smallest_fast_scale says.
template <class V, class T, class Function>
void transform_quotients(const T* x, T* y, int64_t n, float scale, float smallest_fast, Function function) {
  using Floats = typename V::Floats;
  const Floats divisor = V::splat(scale);
  if constexpr (V::has_fma) {
    if (scale >= smallest_fast && scale <= 0x1p100f) {
      const Floats reciprocal = V::splat(1.0f / scale);
      transform<V>(x, y, n, [&](Floats v) { return function(quotient<V>(v, divisor, reciprocal)); });
      return;
    }
  }
  transform<V>(x, y, n, [&](Floats v) { return function(V::divide(v, divisor)); });
}

}  // namespace
}  // namespace qscale::cpu
