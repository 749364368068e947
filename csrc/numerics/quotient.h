// Quotients without a division: when they are exact, and when values may go past the ends of a grid.
#pragma once

#include "numerics/codebook.h"
#include "numerics/float_quant.h"
#include "numerics/int_quant.h"

namespace qscale {

// x / scale at a third of the division's cost, correctly rounded down to the quotient whose remainder underflows; the
// sign of a zero is lost. Two Newton steps on the quotient: the first makes it faithful, and by Markstein's theorem (IBM
// J. Res. Dev. 34, 1990) the second then makes it exact, given a correctly rounded reciprocal and remainders that are
// multiples of 2**-149.
//
// One step errs by 2**-46 of the quotient, which matters only where that is as close to a point between two float32
// beside a tie. A bfloat16 over absmax / (2**k - 1) never is: 8 bits times 2**k - 1 over 8 bits is a tie t of at most 12
// bits, or 2**-20 away from it; and where it is one, the rounding of the scale moves the quotient off t by no less than
// 2**-36 more or less than half a step. (All cases counted; a test goes through them.)
constexpr int kNewtonSteps = 2, kNewtonStepsOfBFloat16 = 1;

// From this scale on, quotients down to 2**exponent are exact; smaller ones must not matter beyond their sign.
QSCALE_HD float smallest_fast_scale(int exponent) {
  const int lowest = -103 - exponent;
  return power_of_two(lowest < -100 ? -100 : lowest);
}

constexpr float kLargestFastScale = 0x1p100f;

// (2**k - 1) * 2**n with k up to 11: so are the largest values of integers and floats, and 1.
QSCALE_HD bool is_all_ones(float largest) {
  const uint32_t significand = (bits_of(largest) & 0x7fffffu) | 0x800000u, last = significand & (0u - significand);
  return significand + last == 0x1000000u && last >= 0x2000u;
}

// A scale that is the range over `largest`, but for a rounding, takes the range to the ends of the grid and no further.
QSCALE_HD bool may_exceed(const IntGrid& grid, float largest) { return grid.qmax != largest || grid.qmin != -largest; }
QSCALE_HD bool may_exceed(const FloatGrid& grid, float largest) { return grid.largest != largest; }
QSCALE_HD bool may_exceed(const Codebook&, float) { return false; }

}  // namespace qscale
