// Symmetric integer fake quantization of one element: the arithmetic that every backend repeats, bit for bit.
#pragma once

#include <cmath>

#include "numerics/rounding.h"

namespace qscale {

// Codes from qmin to qmax; the scale is absmax / denominator. Small integers, so each is exact as a float.
struct IntGrid {
  float qmin;
  float qmax;
  float denominator;
  Rounding rounding = Rounding::even;
};

// A group of zeros, or one so small that its scale underflows, divides by 1: every code is then zero.
QSCALE_HD float int_scale(float absmax, const IntGrid& grid) {
  const float scale = absmax / grid.denominator;
  return scale == 0.0f ? 1.0f : scale;
}

// Ties to even, then the ties that went towards zero one further: magnitude - code is exact.
QSCALE_HD float round_away(float value) {
  const float magnitude = fabsf(value);
  float code = rintf(magnitude);
  code += magnitude - code == 0.5f ? 1.0f : 0.0f;
  return with_sign_of(code, value);
}

// The comparisons keep a NaN, which fails both.
QSCALE_HD float int_code(float quotient, const IntGrid& grid) {
  float code = grid.rounding == Rounding::away ? round_away(quotient) : rintf(quotient);
  code = code < grid.qmin ? grid.qmin : code;
  return code > grid.qmax ? grid.qmax : code;
}

QSCALE_HD float int_round_trip(float x, float scale, const IntGrid& grid) {
  return int_code(x / scale, grid) * scale;
}

}  // namespace qscale
