// TransformerEngine d0067d0, its reference for NVFP4, one block and one element at a time; qscale/kernels/dialects/te.py
// defines it.
#pragma once

#include "numerics/dialects/steps.h"

namespace qscale::dialects {

constexpr float kLargestFloat = 0x1.fffffep127f;

struct TeNvfp4 {
  using Reduced = float;
  float block_factor;  // the scale of the tensor over 6
  float inverse;       // one over the scale of the tensor
};

QSCALE_HD TeNvfp4 te_nvfp4(float tensor_absmax) {
  const float ratio = at_most(2688.0f / tensor_absmax, kLargestFloat);
  const float scale = tensor_absmax == 0.0f || ratio == 0.0f ? 1.0f : ratio;
  return {scale * (1.0f / 6.0f), 1.0f / scale};
}

template <class T>
QSCALE_HD Factors scale_of(float absmax, const TeNvfp4& rule) {
  const float decoded = nearest(absmax * rule.block_factor, e4m3()) * rule.inverse;
  return {at_most(1.0f / decoded, kLargestFloat), decoded};
}

// NaN and both zeros have code 0.
template <class T>
QSCALE_HD float round_trip(float x, const Factors& s, const TeNvfp4&) {
  const float scaled = x * s.before;
  return nearest(scaled == scaled ? scaled + 0.0f : 0.0f, e2m1()) * s.after;
}

}  // namespace qscale::dialects
