// Formats for tests: every kind of element, with the ways to round and to scale that it takes.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>

#include "inputs.h"
#include "known_grid.h"

using namespace qscale;  // as every test has it

// The formats: elements, with every way to round and to scale that they take.
template <class Use>
void for_ints(Use use) {
  struct Codes {
    float qmin, qmax, denominator;
  };
  const auto with = [&](Codes c, ScaleKind kind, ZeroPoint zero = ZeroPoint::none, Rounding r = Rounding::even) {
    use(IntGrid{c.qmin, c.qmax, zero, r}, Scaling{kind, c.denominator});
  };
  const Codes int4{-7.0f, 7.0f, 7.0f}, uint4{0.0f, 15.0f, 7.5f}, full{-8.0f, 7.0f, 7.5f};
  const Codes wide{-0x1p20f, 0x1p20f, 0x1p20f};
  const Codes int8{-128.0f, 127.0f, 128.0f}, ternary{-1.0f, 1.0f, 1.0f}, few_below{-3.0f, 7.0f, 7.0f};
  for (const Codes c : {int4, full, wide, int8, ternary, few_below}) with(c, ScaleKind::float32);
  for (int32_t kind = 3; kind < 8; ++kind) with(int4, static_cast<ScaleKind>(kind));
  for (const Rounding r : {Rounding::away, Rounding::stochastic}) {
    with(int4, ScaleKind::float32, ZeroPoint::none, r);
    with(wide, ScaleKind::rceil, ZeroPoint::none, r);
  }
  for (const ZeroPoint zero : {ZeroPoint::integer, ZeroPoint::real}) {
    for (const ScaleKind k : {ScaleKind::float32, ScaleKind::rceil, ScaleKind::float16, ScaleKind::e4m3}) {
      with(uint4, k, zero);
    }
    with(full, ScaleKind::float32, zero);
    with(uint4, ScaleKind::float32, zero, Rounding::away);
    with(uint4, ScaleKind::float32, zero, Rounding::stochastic);
  }
}

template <class Use>
void for_floats(Use use) {
  const auto with = [&](const KnownGrid& known, ScaleKind kind, Rounding rounding = Rounding::even) {
    const FloatGrid grid = known.grid(rounding);
    const int top = std::ilogb(grid.largest);
    use(grid, Scaling{kind, grid.largest, 1.0f, top, top - std::max(top, grid.min_exponent) + grid.mantissa_bits});
  };
  const KnownGrid e3m2{3, 2}, e1m2{1, 2}, e1m0{1, 0}, e7m10{7, 10}, e8m0{8, 0, 1}, e8m3{8, 3, 8}, bfloat16{8, 7, 128};
  for (const KnownGrid& known :
       {kE2M1, kE4M3, kE5M2, kE3M0, kFixed, e3m2, e1m2, e1m0, e7m10, e8m0, e8m3, bfloat16}) {
    with(known, ScaleKind::float32);
  }
  for (const float largest : {4.0f, 8.0f}) use(kE2M1.grid(), Scaling{ScaleKind::float32, largest});
  for (int32_t kind = 1; kind < 8; ++kind) {
    for (const KnownGrid& known : {kE2M1, kE4M3, kE3M0, kFixed}) with(known, static_cast<ScaleKind>(kind));
  }
  for (const Rounding rounding : {Rounding::away, Rounding::stochastic}) {
    for (const KnownGrid& known : {kE2M1, kE4M3, kE3M0, kFixed, e8m3}) with(known, ScaleKind::float32, rounding);
    with(kE2M1, ScaleKind::e4m3, rounding);
    with(kE4M3, ScaleKind::rceil, rounding);
  }
}

template <class Use>
void for_codebooks(Use use) {
  for (int64_t index = 0; index < kCodebookCount; ++index) use(codebook(index), Scaling{ScaleKind::float32, 1.0f});
  for (int32_t kind = 5; kind < 8; ++kind) use(codebook(0), Scaling{static_cast<ScaleKind>(kind), 1.0f});
}

inline std::string name_of(const IntGrid& grid) {
  return "int " + std::to_string(grid.qmin) + " to " + std::to_string(grid.qmax) + " zero point " +
         std::to_string(static_cast<int>(grid.zero_point)) + " rounding " +
         std::to_string(static_cast<int>(grid.rounding));
}
inline std::string name_of(const FloatGrid& grid) {
  return "float m" + std::to_string(grid.mantissa_bits) + " from 2**" + std::to_string(grid.min_exponent) + " to " +
         std::to_string(grid.largest) + " rounding " + std::to_string(static_cast<int>(grid.rounding));
}
inline std::string name_of(const Codebook&) { return "codebook"; }

inline Shape squares_of(int64_t matrices, int64_t rows, int64_t axis, int64_t block_rows, int64_t group) {
  return {Layout{axis, group, rows, block_rows}, matrices * rows};
}

template <class T>
float absmax_of(const T* x, int64_t n) {
  float largest = 0.0f;
  for (int64_t i = 0; i < n; ++i) largest = std::fmax(largest, std::fabs(to_float(x[i])));
  return largest;
}
