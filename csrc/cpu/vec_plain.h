// Sixteen floats in portable C++, the scalar arithmetic of numerics/ element by element.
#pragma once

#include "numerics/codebook.h"
#include "numerics/float16.h"
#include "numerics/int_quant.h"

namespace qscale::cpu {
namespace {

struct Plain {
  static constexpr int64_t width = 16;
  static constexpr int64_t bytes = 64;
  static constexpr bool has_fma = false;
  static constexpr bool has_even_odd = false;
  struct Floats {
    float at[width];
  };
  struct Bits {
    uint32_t at[width];
  };

  template <class F>
  static Floats each(F value) {
    Floats out;
    for (int i = 0; i < width; ++i) out.at[i] = value(i);
    return out;
  }

  template <class T>
  static Floats load(const T* x) {
    return each([&](int i) { return to_float(x[i]); });
  }
  template <class T>
  static Floats load_first(const T* x, int64_t n) {
    return each([&](int i) { return i < n ? to_float(x[i]) : 0.0f; });
  }
  template <class T>
  static void store(T* y, const Floats& v) {
    for (int i = 0; i < width; ++i) from_float(v.at[i], y[i]);
  }
  template <class T>
  static void store_first(T* y, const Floats& v, int64_t n) {
    for (int64_t i = 0; i < n; ++i) from_float(v.at[i], y[i]);
  }

  static Floats splat(float value) {
    return each([&](int) { return value; });
  }
  static Floats divide(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.at[i] / b.at[i]; });
  }
  static Floats multiply(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.at[i] * b.at[i]; });
  }
  static Floats round_even(const Floats& a) {
    return each([&](int i) { return rintf(a.at[i]); });
  }
  static Floats clamp(const Floats& a, const Floats& low, const Floats& high) {
    return each([&](int i) {
      const float v = a.at[i] < low.at[i] ? low.at[i] : a.at[i];
      return v > high.at[i] ? high.at[i] : v;
    });
  }

  static Floats with_sign_of(const Floats& a, const Floats& b) {
    return each([&](int i) { return qscale::with_sign_of(a.at[i], b.at[i]); });
  }
  template <class F>
  static Floats map(const Floats& a, F function) {
    return each([&](int i) { return function(a.at[i]); });
  }

  using Book = Codebook;
  static Book prepare(const Codebook& table) { return table; }
  static Floats nearest(const Floats& a, const Book& table) {
    return each([&](int i) {
      int node = 1;
      for (int level = 0; level < 4; ++level) node = 2 * node + (a.at[i] > table.tree[node] ? 1 : 0);
      return table.values[node - 16];
    });
  }

  static Bits no_bits() { return Bits{}; }
  template <class T>
  static Bits max_magnitude(const Bits& seen, const T* x) {
    return max_magnitude_first(seen, x, bytes / static_cast<int64_t>(sizeof(T)));
  }
  template <class T>
  static Bits max_magnitude_first(const Bits& seen, const T* x, int64_t n) {
    Bits out = seen;
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t magnitude = bits_of(to_float(x[i])) & 0x7fffffffu;
      uint32_t& slot = out.at[i % width];
      slot = magnitude > slot ? magnitude : slot;
    }
    return out;
  }
  template <class T>
  static float largest(const Bits& a, const Bits& b, T) {
    uint32_t found = 0;
    for (int i = 0; i < width; ++i) {
      found = a.at[i] > found ? a.at[i] : found;
      found = b.at[i] > found ? b.at[i] : found;
    }
    return float_of(found);
  }
};

}  // namespace
}  // namespace qscale::cpu
