// Integer elements, one number at a time: the arithmetic that every backend repeats, bit for bit.
#pragma once

#include "numerics/rounding.h"

namespace qscale {

// Added to the rounded quotient, or to the quotient before it is rounded.
enum class ZeroPoint : int32_t { none = 0, integer = 1, real = 2 };

// Codes from qmin to qmax: small integers, so each is exact as a float.
struct IntGrid {
  float qmin;
  float qmax;
  ZeroPoint zero_point = ZeroPoint::none;
  Rounding rounding = Rounding::even;
};

// That of a group whose smallest value is `low`: low itself becomes qmin. An integer one stays in range.
QSCALE_HD float zero_point_of(float low, float divisor, const IntGrid& grid) {
  const float ratio = low / divisor;
  float zero = grid.qmin - rintf(ratio);
  zero = zero < grid.qmin ? grid.qmin : zero;
  zero = zero > grid.qmax ? grid.qmax : zero;
  return grid.zero_point == ZeroPoint::real ? grid.qmin - ratio : zero;
}

QSCALE_HD bool is_two_ended(const IntGrid& grid) { return grid.zero_point != ZeroPoint::none; }

// What the codes of a group span, of the range of its elements: an integer zero point must be within it.
struct Span {
  float from, to;
};
QSCALE_HD Span spanned(float least, float most, const IntGrid& grid) {
  const bool real = grid.zero_point == ZeroPoint::real;
  return {real || !(least > 0.0f) ? least : 0.0f, real || !(most < 0.0f) ? most : 0.0f};
}

// What the caller gives may lie between integers where an integer is wanted.
QSCALE_HD float zero_point_in_use(float zero, const IntGrid& grid) {
  return grid.zero_point == ZeroPoint::none ? 0.0f : grid.zero_point == ZeroPoint::real ? zero : rintf(zero);
}

// Before it is held to the range.
QSCALE_HD float raw_code(float quotient, float zero, const IntGrid& grid, uint32_t random) {
  const bool inside = grid.zero_point == ZeroPoint::real;
  const float code = round_to_integer(inside ? quotient + zero : quotient, grid.rounding, random);
  return inside ? code : code + zero;
}

// The comparisons keep a NaN, which fails both.
QSCALE_HD float held(float code, const IntGrid& grid) {
  const float v = code < grid.qmin ? grid.qmin : code;
  return v > grid.qmax ? grid.qmax : v;
}

// In units of the scale. Integers have one zero: adding 0 makes it the positive one.
QSCALE_HD float value_of(float quotient, float zero, const IntGrid& grid, uint32_t random) {
  return (held(raw_code(quotient, zero, grid, random), grid) - zero) + 0.0f;
}

QSCALE_HD bool is_stochastic(const IntGrid& grid) { return grid.rounding == Rounding::stochastic; }

}  // namespace qscale
