// The smallest and the largest of some numbers, compared as integers.
#pragma once

#include "numerics/rounding.h"

namespace qscale {

// The ends of a range as integers in the order of the floats, -0 below 0, a NaN beyond both infinities.
struct Ends {
  int32_t low, high;
};

QSCALE_HD int32_t ordered(uint32_t bits) {
  const int32_t word = static_cast<int32_t>(bits);
  return word ^ ((word >> 31) & INT32_MAX);
}

constexpr Ends kNoEnds{INT32_MAX, INT32_MIN};

// Both are NaN where one is.
QSCALE_HD void floats_of(Ends ends, float* low, float* high) {
  const float least = float_of(static_cast<uint32_t>(ordered(static_cast<uint32_t>(ends.low))));
  const float most = float_of(static_cast<uint32_t>(ordered(static_cast<uint32_t>(ends.high))));
  const bool has_nan = is_nan(least) || is_nan(most);
  *low = has_nan ? quiet_nan() : least;
  *high = has_nan ? quiet_nan() : most;
}

}  // namespace qscale
