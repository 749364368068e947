// Integers under scales of the caller, a vector at a time: the operations of numerics/int_quant.h, in its order.
#pragma once

#include "numerics/int_quant.h"
#include "numerics/scaling.h"

namespace qscale::cpu {
namespace {

template <class V>
struct IntLanes {
  using Floats = typename V::Floats;
  Floats low, high, none = V::splat(0.0f);
  bool real;

  explicit IntLanes(const IntGrid& grid)
      : low(V::splat(grid.qmin)), high(V::splat(grid.qmax)), real(grid.zero_point == ZeroPoint::real) {}
  static bool serves(const IntGrid& grid) { return grid.rounding == Rounding::even; }

  [[gnu::always_inline]] Floats raw(Floats quotient, Floats zero) const {
    return real ? V::round(V::add(quotient, zero)) : V::add(V::round(quotient), zero);
  }
  [[gnu::always_inline]] Floats value(Floats raw, Floats zero) const {
    return V::add(V::subtract(V::clamp(raw, low, high), zero), none);
  }
};

// Scale, divisor and zero point of a group in every lane. A true division by the divisor keeps what a caller's scale may
// bring along: NaN, infinities, signs, quotients of any size. The lower bits of a NaN are cleared, so that rounding to
// bfloat16 cannot carry them into the sign.
template <class V>
struct GroupLanes {
  typename V::Floats scale, divisor, zero;

  GroupLanes(float scale_of_group, float zero_of_group)
      : scale(V::splat(plain(scale_of_group))),
        divisor(V::splat(divisor_of(plain(scale_of_group)))),
        zero(V::splat(plain(zero_of_group))) {}

 private:
  static float plain(float value) { return is_nan(value) ? quiet_nan() : value; }
};

}  // namespace
}  // namespace qscale::cpu
