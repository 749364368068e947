// A format of qscale/formats/grids.py, its magnitudes worked out in double from exponent field and mantissa field.
#pragma once

#include <cmath>

#include "numerics/float_quant.h"

struct KnownGrid {
  int exponent_bits, mantissa_bits;
  int reserved = 0;  // codes at the top that are not numbers

  int min_exponent() const { return exponent_bits > 0 ? 2 - (1 << (exponent_bits - 1)) : 1; }
  int64_t count() const { return (int64_t{1} << (exponent_bits + mantissa_bits)) - reserved; }
  double magnitude(int64_t code) const {
    const int64_t field = code >> mantissa_bits, one = int64_t{1} << mantissa_bits, mantissa = code & (one - 1);
    const int exponent = min_exponent() - mantissa_bits + static_cast<int>(field > 0 ? field - 1 : 0);
    return std::ldexp(static_cast<double>(field > 0 ? one + mantissa : mantissa), exponent);
  }
  double largest() const { return magnitude(count() - 1); }
  // Ties to the even multiple of the step, which is the even code where there is a mantissa.
  double nearest(double magnitude) const {
    if (magnitude == 0.0 || std::isnan(magnitude)) return magnitude;
    if (magnitude >= largest()) return largest();
    const int own = std::ilogb(magnitude), exponent = own < min_exponent() ? min_exponent() : own;
    const double step = std::ldexp(1.0, exponent - mantissa_bits);
    return std::nearbyint(magnitude / step) * step;
  }
  qscale::FloatGrid grid(qscale::Rounding rounding = qscale::Rounding::even) const {
    return {mantissa_bits, min_exponent(), static_cast<float>(largest()), rounding};
  }
};

constexpr KnownGrid kE2M1{2, 1}, kE4M3{4, 3, 1}, kE5M2{5, 2, 4}, kE3M0{3, 0}, kFixed{0, 7};
