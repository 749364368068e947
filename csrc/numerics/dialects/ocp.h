// OCP Microscaling Formats 1.0, one block and one element at a time; qscale/kernels/dialects/ocp.py defines it.
#pragma once

#include "numerics/dialects/steps.h"

namespace qscale::dialects {

constexpr int64_t kOcpBlock = 32;

struct OcpMx {
  using Reduced = float;
  Element element;
};

template <class T>
QSCALE_HD Factors scale_of(float absmax, const OcpMx& rule) {
  const Factors scale = e8m0(static_cast<int>(bits_of(absmax) >> 23) - 127 - rule.element.largest_exponent);
  return {scale.before, is_finite(absmax) ? scale.after : quiet_nan()};
}

template <class T>
QSCALE_HD float round_trip(float x, const Factors& s, const OcpMx& rule) {
  return nearest(x * s.before, rule.element) * s.after;
}

}  // namespace qscale::dialects
