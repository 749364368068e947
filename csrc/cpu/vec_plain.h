// Sixteen floats in portable C++, for the compiler to vectorize.
#pragma once

#include "cpu/group.h"
#include "numerics/float16.h"

namespace qscale::cpu {
namespace {

struct Plain {
  static constexpr int64_t width = 16;
  static constexpr int64_t bytes = 64;
  static constexpr bool has_fma = false;
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
  static void store(T* y, const Floats& v) {
    for (int i = 0; i < width; ++i) from_float(v.at[i], y[i]);
  }
  static Floats splat(float value) {
    return each([&](int) { return value; });
  }
  static Floats multiply(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.at[i] * b.at[i]; });
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
  static void largest(const Bits* groups, float* out, T) {
    for (int64_t g = 0; g < kTileGroups; ++g) {
      uint32_t found = 0;
      for (const uint32_t magnitude : groups[g].at) found = magnitude > found ? magnitude : found;
      out[g] = float_of(found);
    }
  }
};

}  // namespace
}  // namespace qscale::cpu
