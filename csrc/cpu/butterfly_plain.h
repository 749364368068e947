// What a Hadamard transform needs beyond vec_plain.h.
#pragma once

#include "cpu/vec_plain.h"

namespace qscale::cpu {
namespace {

struct ButterflyPlain : Plain {
  static constexpr int log_chunk = 5;
  static constexpr int log_radix = 2;
  static constexpr int mix_rows = 2;

  static Floats add(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.at[i] + b.at[i]; });
  }
  static Floats subtract(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.at[i] - b.at[i]; });
  }
  static Floats multiply_add(const Floats& a, const Floats& b, const Floats& c) {
    return each([&](int i) { return a.at[i] * b.at[i] + c.at[i]; });  // two roundings; here the product is exact
  }

  // Lanes i and i + h become their sum and difference.
  template <int h>
  static Floats butterfly(const Floats& v) {
    return each([&](int i) { return (i & h) != 0 ? v.at[i - h] - v.at[i] : v.at[i] + v.at[i + h]; });
  }

  // Thirty-two elements: the even ones, then the odd ones, as the other instruction sets have them.
  static void load_even_odd(const BFloat16* x, Floats& even, Floats& odd) {
    even = each([&](int i) { return to_float(x[2 * i]); });
    odd = each([&](int i) { return to_float(x[2 * i + 1]); });
  }
  static void store_even_odd(BFloat16* y, const Floats& even, const Floats& odd) {
    for (int i = 0; i < width; ++i) {
      from_float(even.at[i], y[2 * i]);
      from_float(odd.at[i], y[2 * i + 1]);
    }
  }
};

}  // namespace
}  // namespace qscale::cpu
