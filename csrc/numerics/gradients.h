// How y = value(x / scale, zero) * scale changes with x, scale and zero point, rounding taken as the identity.
#pragma once

#include "numerics/codebook.h"
#include "numerics/float_quant.h"
#include "numerics/int_quant.h"

namespace qscale {

// Where the gradient of an element passes: everywhere; where its rounded code is in range; where it is in range before
// it is rounded (LSQ); where y is within `trust` scales of x (QuEST).
enum class Gate : int32_t { open = 0, clipped = 1, lsq = 2, trust = 3 };

struct Slopes {
  bool passes;     // the gradient of y, to x
  float of_scale;  // of y, per unit of the scale
  float of_zero;   // of y, per unit of the zero point
};

// Which code an element has before it is held to the range, and the ends of the range.
struct Place {
  float rounded, exact, low, high;
};

QSCALE_HD Place place_of(float quotient, float zero, const IntGrid& grid, uint32_t random) {
  return {raw_code(quotient, zero, grid, random), quotient + zero, grid.qmin, grid.qmax};
}
// Rounded as if the grid had no end.
QSCALE_HD Place place_of(float quotient, float, const FloatGrid& grid, uint32_t random) {
  FloatGrid endless = grid;
  endless.largest = float_of(0x7f800000u);
  return {round_to_grid(quotient, endless, random), quotient, -grid.largest, grid.largest};
}
QSCALE_HD Place place_of(float quotient, float, const Codebook&, uint32_t) { return {quotient, quotient, -1.0f, 1.0f}; }

template <class Element>
QSCALE_HD Slopes slopes_of(float x, float quotient, float scale, float zero, const Element& element, uint32_t random,
                           Gate gate, float trust) {
  const Place place = place_of(quotient, zero, element, random);
  const float value = value_of(quotient, zero, element, random);
  const float at = gate == Gate::lsq ? place.exact : place.rounded;
  const bool inside = at >= place.low && at <= place.high;
  const float error = fabsf(value * scale - x);
  const bool passes = gate == Gate::open ? true : gate == Gate::trust ? error <= trust * scale : inside;
  return {passes, inside ? value - quotient : value, inside ? 0.0f : -scale};
}

}  // namespace qscale
