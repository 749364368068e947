// torchao 0.18.0, one group and one element at a time; qscale/kernels/dialects/torchao.py and torchao_floats.py define it.
#pragma once

#include "numerics/dialects/logarithm.h"
#include "numerics/dialects/steps.h"

namespace qscale::dialects {

// How integers are mapped; the numbers are those of MAPPINGS in qscale/formats/dialect_ops.py.
enum class Mapping : int32_t { symmetric = 0, noclip = 1, asymmetric = 2 };

// What x86 makes of a NaN on its way to int32.
constexpr float kIntOfNan = -0x1p31f;

// IntxFakeQuantizer, whose scale leaves the input's dtype before it meets a value.
struct TorchaoInt {
  using Reduced = Ends;
  float qmin, qmax;
  Mapping mapping;
};

// The affine primitives: every step in the input's dtype, codes in int8.
struct TorchaoAffine {
  using Reduced = Ends;
  float qmin, qmax;
  Mapping mapping;
};

struct TorchaoScale {
  float inverse, scale, zero_point;
};

QSCALE_HD bool needs_ends(const TorchaoInt& rule) { return rule.mapping != Mapping::symmetric; }
QSCALE_HD bool needs_ends(const TorchaoAffine& rule) { return rule.mapping != Mapping::symmetric; }

template <class T>
QSCALE_HD TorchaoScale torchao_scale(Ends ends, float qmin, float qmax, Mapping mapping) {
  const float absmax = at_least(ends.high, -ends.low);
  float scale = mapping == Mapping::asymmetric ? in<T>(ends.high - ends.low) / (qmax - qmin)
                : mapping == Mapping::noclip   ? at_least(ends.high / qmax, ends.low / qmin)
                                               : absmax / (0.5f * (qmax - qmin));
  scale = at_least(in<T>(scale), smallest_normal(T{}));
  const float zero_point = between(qmin - rintf(in<T>(ends.low / scale)), qmin, qmax);
  const float as_int = zero_point == zero_point ? zero_point : kIntOfNan;
  return {1.0f / scale, scale, mapping == Mapping::asymmetric ? as_int : 0.0f};
}

template <class T>
QSCALE_HD TorchaoScale scale_of(Ends ends, const TorchaoInt& rule) {
  return torchao_scale<T>(ends, rule.qmin, rule.qmax, rule.mapping);
}

// The addition makes a -0 into +0. q - zp is exact in every dtype, but for a zero point that was NaN: its scale is
// infinite, and so is the product either way.
template <class T>
QSCALE_HD float round_trip(float x, const TorchaoScale& s, const TorchaoInt& rule) {
  const float code = between(rintf(x * s.inverse) + s.zero_point, rule.qmin, rule.qmax);
  return (code - s.zero_point) * s.scale;
}

template <class T>
QSCALE_HD TorchaoScale scale_of(Ends ends, const TorchaoAffine& rule) {
  const TorchaoScale s = torchao_scale<T>(ends, rule.qmin, rule.qmax, rule.mapping);
  return {in<T>(s.inverse), s.scale, s.zero_point};
}

// As int8 a NaN is 0.
template <class T>
QSCALE_HD float round_trip(float x, const TorchaoScale& s, const TorchaoAffine& rule) {
  const float code = between(rintf(in<T>(x * s.inverse)) + s.zero_point, rule.qmin, rule.qmax);
  return ((code == code ? code : 0.0f) - s.zero_point) * s.scale;
}

// Float8FakeQuantizer. There is no eps: a group of zeros divides by zero.
struct TorchaoFloat8 {
  using Reduced = float;
  Element element;
};

template <class T>
QSCALE_HD Divisor scale_of(float absmax, const TorchaoFloat8& rule) {
  return {in<T>(absmax / rule.element.largest)};
}

template <class T>
QSCALE_HD float round_trip(float x, const Divisor& s, const TorchaoFloat8& rule) {
  return nearest(x / s.scale, rule.element) * s.scale;
}

// MXTensor.to_mx. By the bits of the largest magnitude: `half` rounds it to few mantissa bits (even), `more` is 1 where
// anything above a power of two counts as the next (ceil).
struct TorchaoMx {
  using Reduced = float;
  Element element;
  uint32_t half;
  int more;
};

template <class T>
QSCALE_HD Factors scale_of(float absmax, const TorchaoMx& rule) {
  const uint32_t bits = bits_of(absmax) + rule.half;
  const int up = (bits & 0x7fffffu) != 0u ? rule.more : 0;
  const Factors scale = e8m0(static_cast<int>(bits >> 23) - 127 + up - rule.element.largest_exponent);
  // Divisors are normal numbers.
  return {at_most(scale.before, 0x1p126f), absmax == absmax ? scale.after : quiet_nan()};
}

template <class T>
QSCALE_HD float round_trip(float x, const Factors& s, const TorchaoMx& rule) {
  return nearest(x * s.before, rule.element) * s.after;
}

// The same by ceil(log2(absmax / largest)).
struct TorchaoMxRceil {
  using Reduced = float;
  Element element;
  Logarithms ceil_log2;
};

template <class T>
QSCALE_HD Factors scale_of(float absmax, const TorchaoMxRceil& rule) {
  const int exponent = exponent_by_log2(absmax / rule.element.largest, rule.ceil_log2);
  const Factors scale = e8m0(exponent);
  // Blocks of the lowest exponent go to zero.
  return {exponent > -127 ? scale.before : 1.0f, absmax == absmax ? scale.after : quiet_nan()};
}

template <class T>
QSCALE_HD float round_trip(float x, const Factors& s, const TorchaoMxRceil& rule) {
  return nearest(x * s.before, rule.element) * s.after;
}

// NVFP4Tensor.to_nvfp4; without its scale of the tensor, `tensor_scale` is 1.
struct TorchaoNvfp4 {
  using Reduced = float;
  float tensor_scale;
};

QSCALE_HD TorchaoNvfp4 torchao_nvfp4(float tensor_absmax) { return {tensor_absmax / 2688.0f}; }

// Block scales are never subnormal.
template <class T>
QSCALE_HD Factors scale_of(float absmax, const TorchaoNvfp4& rule) {
  const float block = nearest(at_least((absmax / 6.0f) / rule.tensor_scale, 0x1p-6f), e4m3());
  return {(1.0f / rule.tensor_scale) / block, rule.tensor_scale * block};
}

// Where 1 / tensor_scale is infinite a zero becomes NaN, and the cast of a NaN, which goes through the bit arithmetic
// meant for normal values, gives 1.5 with its sign: minus, as x86 has it, whatever the processor.
template <class T>
QSCALE_HD float round_trip(float x, const Factors& s, const TorchaoNvfp4&) {
  const float scaled = x * s.before;
  return nearest(scaled == scaled ? scaled : -1.5f, e2m1()) * s.after;
}

}  // namespace qscale::dialects
