// nvidia-modelopt 0.47.0 on a CPU, one group and one element at a time; qscale/kernels/dialects/modelopt.py defines it.
#pragma once

#include "numerics/dialects/codebook_search.h"
#include "numerics/dialects/logarithm.h"
#include "numerics/dialects/steps.h"

namespace qscale::dialects {

// A largest magnitude up to here counts as zero.
constexpr float kModeloptZero = 0x1p-24f;

struct ModeloptInt {
  using Reduced = float;
  float qmax;
};

struct ModeloptScale {
  float multiplier, divisor;
};

template <class T>
QSCALE_HD ModeloptScale scale_of(float absmax, const ModeloptInt& rule) {
  const bool zero = absmax <= kModeloptZero;
  const float scale = rule.qmax / absmax;
  return {zero ? 0.0f : scale, zero ? 1.0f : scale};
}

template <class T>
QSCALE_HD float round_trip(float x, const ModeloptScale& s, const ModeloptInt& rule) {
  return between(rintf(x * s.multiplier), -rule.qmax, rule.qmax) / s.divisor;
}

struct ModeloptFloat8 {
  using Reduced = float;
};

template <class T>
QSCALE_HD Factors scale_of(float absmax, const ModeloptFloat8&) {
  const float scale = absmax <= kModeloptZero ? 1.0f : (1.0f / absmax) * 448.0f;
  return {scale, 1.0f / scale};
}

template <class T>
QSCALE_HD float round_trip(float x, const Factors& s, const ModeloptFloat8&) {
  return nearest(x * s.before, e4m3()) * s.after;
}

QSCALE_HD int modelopt_exponent(float absmax, float largest, const Logarithms& ceil_log2) {
  return absmax == absmax ? exponent_by_log2(absmax / largest, ceil_log2) : -127;
}

struct ModeloptMxfp4 {
  using Reduced = float;
  Logarithms ceil_log2;
};

// A group with NaN or infinity becomes -0.
template <class T>
QSCALE_HD Factors scale_of(float absmax, const ModeloptMxfp4& rule) {
  const Factors scale = e8m0(modelopt_exponent(absmax, 6.0f, rule.ceil_log2));
  const bool finite = is_finite(absmax);
  return {finite ? scale.before : 0.0f, finite ? scale.after : 0.0f};
}

// Ties go toward zero, and what is not above zero gets the sign.
template <class T>
QSCALE_HD float round_trip(float x, const Factors& s, const ModeloptMxfp4&) {
  const Element e = e2m1();
  const float scaled = x * s.before;
  const float magnitude = fabsf(scaled) < e.largest ? fabsf(scaled) : e.largest;
  const float even = nearest_held(magnitude, e), power = float_of(binade(magnitude, e));
  const float value = even - magnitude == 0.25f * power ? even - 0.5f * power : even;
  return (scaled > 0.0f ? value : -value) * s.after;
}

struct ModeloptMxfp8 {
  using Reduced = float;
  Logarithms ceil_log2;
};

template <class T>
QSCALE_HD Factors scale_of(float absmax, const ModeloptMxfp8& rule) {
  return e8m0(modelopt_exponent(absmax, 448.0f, rule.ceil_log2));
}

template <class T>
QSCALE_HD float round_trip(float x, const Factors& s, const ModeloptMxfp8&) {
  return nearest(x * s.before, e4m3()) * s.after;
}

struct ModeloptNvfp4 {
  using Reduced = float;
  float tensor_scale;
};

QSCALE_HD ModeloptNvfp4 modelopt_nvfp4(float tensor_absmax) { return {tensor_absmax / 2688.0f}; }

template <class T>
QSCALE_HD Divisor scale_of(float absmax, const ModeloptNvfp4& rule) {
  const float ratio = absmax / (6.0f * rule.tensor_scale);
  const float block = nearest(at_least(ratio == 0.0f ? 1.0f : ratio, 0x1p-9f), e4m3());
  return {block * rule.tensor_scale};
}

// The code of a NaN is that of 6; zeros have no sign.
template <class T>
QSCALE_HD float round_trip(float x, const Divisor& s, const ModeloptNvfp4&) {
  const float scaled = x / s.scale;
  return (nearest(scaled == scaled ? scaled : 6.0f, e2m1()) + 0.0f) * s.scale;
}

struct ModeloptNf4 {
  using Reduced = float;
  Codebook table;  // for the dtype of the input
};

template <class T>
QSCALE_HD Divisor scale_of(float absmax, const ModeloptNf4&) {
  return {absmax};
}

// What is looked up, and the value of what was found.
QSCALE_HD float looked_up(float x, const Divisor& s, const ModeloptNf4&) { return x / s.scale; }
QSCALE_HD float value_of(float found, const Divisor& s) { return found * s.scale; }

// The table to four decimals, as the library has it, and then in bfloat16.
constexpr float kModeloptNf4[16] = {-1.0f,   -0.6962f, -0.5251f, -0.3949f, -0.2844f, -0.1848f, -0.0911f, 0.0f,
                                    0.0796f, 0.1609f,  0.2461f,  0.3379f,  0.4407f,  0.5626f,  0.7230f,  1.0f};

// The library rounds the quotient and each distance to the dtype that they have there (float16 beside a bfloat16 table
// gives float32), and takes the lower of two that are equally near. Which of two neighbours that is can only turn once
// between them, so a border stands for it: the last float32 quotient that goes to the lower one.
QSCALE_HD float modelopt_distance(float a, float b, float) { return fabsf(a - b); }
QSCALE_HD float modelopt_distance(float a, float b, BFloat16) { return in<BFloat16>(fabsf(a - b)); }
QSCALE_HD float modelopt_distance(float a, float b, Half) { return fabsf(a - b); }

template <class T>
QSCALE_HD float modelopt_border(float low, float high) {
  const auto goes_low = [&](float quotient) {
    const float q = in<T>(quotient);
    return modelopt_distance(q, low, T{}) <= modelopt_distance(q, high, T{});
  };
  float last = low, first = high;  // that go to the lower and to the upper one
  for (;;) {
    const float middle = static_cast<float>((static_cast<double>(last) + first) / 2.0);
    if (middle == last || middle == first) return last;
    (goes_low(middle) ? last : first) = middle;
  }
}

template <class T>
QSCALE_HD Codebook modelopt_nf4() {
  Codebook made{};
  for (int i = 0; i < 16; ++i) made.values[i] = in<BFloat16>(kModeloptNf4[i]);
  for (int node = 1; node < 16; ++node) {
    const int index = codebook_border(node);
    made.tree[node] = modelopt_border<T>(made.values[index], made.values[index + 1]);
  }
  return made;
}

}  // namespace qscale::dialects
