// Fake quantization of groups, once for all instruction sets: V is one of vec_plain.h, vec_avx2.h, vec_avx512.h.
#pragma once

#include "cpu/kernels.h"
#include "numerics/float16.h"
#include "numerics/int_quant.h"

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

template <class V, class T, class Divide>
void round_trip_with(const T* x, T* y, int64_t n, float scale, const IntGrid& grid, Divide divide) {
  const auto factor = V::splat(scale), low = V::splat(grid.qmin), high = V::splat(grid.qmax);
  const auto quantized = [&](typename V::Floats values) {
    return V::multiply(V::clamp(V::round_even(divide(values)), low, high), factor);
  };
  int64_t i = 0;
  for (; i + V::width <= n; i += V::width) V::store(y + i, quantized(V::load(x + i)));
  if (i < n) V::store_first(y + i, quantized(V::load_first(x + i, n - i)), n - i);
}

// x / scale, correctly rounded wherever it rounds to a code other than zero, for 2**-100 <= scale <= 2**100, at a
// fifth of the division's cost. Two Newton steps on the quotient: the first makes it faithful, and by Markstein's
// theorem (IBM J. Res. Dev. 34, 1990) the second then makes it exact, given a correctly rounded reciprocal and
// remainders that do not underflow; for quotients from 1/4 they are multiples of 2**-149. Smaller ones end as zero
// either way, with the sign of x.
template <class V>
typename V::Floats quotient(typename V::Floats x, typename V::Floats scale, typename V::Floats reciprocal) {
  auto q = V::multiply(x, reciprocal);
  q = V::multiply_add(V::negative_multiply_add(q, scale, x), reciprocal, q);
  q = V::multiply_add(V::negative_multiply_add(q, scale, x), reciprocal, q);
  return V::with_sign_of(q, x);
}

template <class V, class T>
void round_trip(const T* x, T* y, int64_t n, float scale, const IntGrid& grid) {
  using Floats = typename V::Floats;
  const Floats divisor = V::splat(scale);
  if constexpr (V::has_fma) {
    if (scale >= 0x1p-100f && scale <= 0x1p100f) {
      const Floats reciprocal = V::splat(1.0f / scale);
      round_trip_with<V>(x, y, n, scale, grid, [&](Floats v) { return quotient<V>(v, divisor, reciprocal); });
      return;
    }
  }
  round_trip_with<V>(x, y, n, scale, grid, [&](Floats v) { return V::divide(v, divisor); });
}

template <class V, class T>
void fake_quant_int(const FakeQuantInt& job, int64_t first, int64_t last) {
  const int64_t groups_per_row = (job.axis + job.group - 1) / job.group;
  const int64_t row = first / groups_per_row;
  int64_t start = (first - row * groups_per_row) * job.group;  // within the row
  const T* x = static_cast<const T*>(job.x) + row * job.axis + start;
  T* y = static_cast<T*>(job.y) + row * job.axis + start;
  for (int64_t index = first; index < last; ++index) {
    const int64_t left = job.axis - start;
    const int64_t n = left < job.group ? left : job.group;
    round_trip<V>(x, y, n, int_scale(absmax<V>(x, n), job.grid), job.grid);
    x += n;
    y += n;
    start = n == left ? 0 : start + n;
  }
}

template <class V>
constexpr Kernels kernels_of(const char* isa) {
  return {isa, {fake_quant_int<V, float>, fake_quant_int<V, BFloat16>, fake_quant_int<V, Half>}};
}

}  // namespace
}  // namespace qscale::cpu
