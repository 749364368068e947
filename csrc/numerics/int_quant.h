// Symmetric integer fake quantization of one element: the arithmetic that every backend repeats, bit for bit.
#pragma once

#include <cmath>

#include "numerics/host_device.h"

namespace qscale {

// Codes from qmin to qmax; the scale is absmax / denominator. Small integers, so each is exact as a float.
struct IntGrid {
  float qmin;
  float qmax;
  float denominator;
};

// A group of zeros, or one so small that its scale underflows, divides by 1: every code is then zero.
QSCALE_HD float int_scale(float absmax, const IntGrid& grid) {
  const float scale = absmax / grid.denominator;
  return scale == 0.0f ? 1.0f : scale;
}

// The comparisons keep a NaN, which fails both.
QSCALE_HD float int_round_trip(float x, float scale, const IntGrid& grid) {
  float code = rintf(x / scale);
  code = code < grid.qmin ? grid.qmin : code;
  code = code > grid.qmax ? grid.qmax : code;
  return code * scale;
}

}  // namespace qscale
