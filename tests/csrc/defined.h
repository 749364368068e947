// What the kernels must give: the scalar arithmetic of csrc/numerics, an element at a time.
#pragma once

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "check.h"
#include "cpu/kernels.h"
#include "numerics/codes.h"
#include "numerics/philox.h"

// Of exactly the right size, so that AddressSanitizer sees a read or write past either end.
template <class T>
using Buffer = std::unique_ptr<T[]>;

template <class T>
Buffer<T> buffer_of(int64_t n) {
  return Buffer<T>(new T[static_cast<size_t>(n)]);
}

inline qscale::DType dtype_of(float) { return qscale::DType::float32; }
inline qscale::DType dtype_of(qscale::BFloat16) { return qscale::DType::bfloat16; }
inline qscale::DType dtype_of(qscale::Half) { return qscale::DType::float16; }

template <class T>
const auto& kernels_for(const qscale::IntGrid&) {
  return qscale::cpu::kernels().ints[static_cast<int>(dtype_of(T{}))];
}
template <class T>
const auto& kernels_for(const qscale::FloatGrid&) {
  return qscale::cpu::kernels().floats[static_cast<int>(dtype_of(T{}))];
}
template <class T>
const auto& kernels_for(const qscale::Codebook&) {
  return qscale::cpu::kernels().codebooks[static_cast<int>(dtype_of(T{}))];
}

// A tensor of `rows` rows, and which group each of its elements is in.
struct Shape {
  qscale::Layout layout;
  int64_t rows;

  int64_t count() const { return rows * layout.axis; }
  int64_t groups() const { return rows / layout.matrix_rows * layout.bands_per_matrix() * layout.groups_per_row(); }
  int64_t group_of(int64_t i) const {
    const int64_t row = i / layout.axis, matrix = row / layout.matrix_rows;
    const int64_t band = row % layout.matrix_rows / layout.block_rows;
    return (matrix * layout.bands_per_matrix() + band) * layout.groups_per_row() + i % layout.axis / layout.group;
  }
  std::string name() const {
    return std::to_string(rows) + "x" + std::to_string(layout.axis) + " in " + std::to_string(layout.block_rows) + "x" +
           std::to_string(layout.group);
  }
};

// The scales of groups, those without the scale of the tensor, and zero points.
struct Scales {
  std::vector<float> whole, own, zero;
};

// Of the elements, only integers have zero points.
inline bool has_zero_point(const qscale::IntGrid& grid) { return grid.zero_point != qscale::ZeroPoint::none; }
inline bool spans_zero(const qscale::IntGrid& grid) { return grid.zero_point == qscale::ZeroPoint::integer; }
inline float zero_of(float low, float divisor, const qscale::IntGrid& grid) {
  return has_zero_point(grid) ? qscale::zero_point_of(low, divisor, grid) : 0.0f;
}
inline float given_zero(float zero, const qscale::IntGrid& grid) { return qscale::zero_point_in_use(zero, grid); }
template <class Element>
bool has_zero_point(const Element&) {
  return false;
}
template <class Element>
bool spans_zero(const Element&) {
  return false;
}
template <class Element>
float zero_of(float, float, const Element&) {
  return 0.0f;
}
template <class Element>
float given_zero(float, const Element&) {
  return 0.0f;
}

template <class T, class Element>
Scales defined_scales(const Shape& shape, const qscale::FakeQuant<Element>& job) {
  const T* x = static_cast<const T*>(job.x);
  const size_t groups = static_cast<size_t>(shape.groups());
  std::vector<float> low(groups, INFINITY), high(groups, -INFINITY);
  for (int64_t i = 0; i < shape.count(); ++i) {
    const size_t g = static_cast<size_t>(shape.group_of(i));
    const float v = qscale::to_float(x[i]);
    low[g] = v < low[g] || std::isnan(v) ? v : low[g];
    high[g] = v > high[g] || std::isnan(v) ? v : high[g];
  }
  Scales found;
  for (size_t g = 0; g < groups; ++g) {
    float from = job.range == nullptr ? low[g] : job.range[0], to = job.range == nullptr ? high[g] : job.range[1];
    float extent = std::fabs(from) > std::fabs(to) ? std::fabs(from) : std::fabs(to);
    if (has_zero_point(job.element)) {
      if (spans_zero(job.element)) {
        from = from > 0.0f ? 0.0f : from;
        to = to < 0.0f ? 0.0f : to;
      }
      extent = qscale::half_range(from, to);
    }
    found.own.push_back(qscale::group_scale(extent, job.scaling));
    found.whole.push_back(qscale::scale_of(extent, job.scaling));
    found.zero.push_back(zero_of(from, qscale::divisor_of(found.whole.back()), job.element));
  }
  return found;
}

// What the value of one element follows from.
struct Input {
  float x, quotient, scale, zero;
  uint32_t random;
};

template <class T, class Element>
Input input_of(const Shape& shape, const qscale::FakeQuant<Element>& job, const Scales& scales, int64_t i) {
  const size_t g = static_cast<size_t>(shape.group_of(i));
  const float x = qscale::to_float(static_cast<const T*>(job.x)[i]), scale = scales.whole[g];
  const uint32_t random = is_stochastic(job.element) ? qscale::random_word(static_cast<uint64_t>(i), job.seed) : 0u;
  return {x, x / qscale::divisor_of(scale), scale, scales.zero[g], random};
}

template <class T, class Element>
Buffer<T> defined_values(const Shape& shape, const qscale::FakeQuant<Element>& job, const Scales& scales) {
  Buffer<T> y = buffer_of<T>(shape.count());
  for (int64_t i = 0; i < shape.count(); ++i) {
    const Input p = input_of<T>(shape, job, scales, i);
    qscale::from_float(value_of(p.quotient, p.zero, job.element, p.random) * p.scale, y[static_cast<size_t>(i)]);
  }
  return y;
}

template <class T, class Element>
Buffer<uint8_t> defined_codes(const Shape& shape, const qscale::FakeQuant<Element>& job, const Scales& scales) {
  Buffer<uint8_t> y = buffer_of<uint8_t>(shape.count());
  for (int64_t i = 0; i < shape.count(); ++i) {
    const Input p = input_of<T>(shape, job, scales, i);
    y[static_cast<size_t>(i)] = qscale::code_of(p.quotient, p.zero, job.element, p.random);
  }
  return y;
}

// Two to a byte, the first in the lower half; each row begins a byte.
inline Buffer<uint8_t> packed_codes(const Shape& shape, const uint8_t* codes) {
  const int64_t axis = shape.layout.axis, in_row = axis / 2 + axis % 2;
  Buffer<uint8_t> bytes = buffer_of<uint8_t>(shape.rows * in_row);
  for (int64_t at = 0; at < shape.rows * in_row; ++at) {
    const int64_t row = at / in_row, column = at % in_row * 2;
    const int lower = codes[row * axis + column] % 16, upper = column + 1 < axis ? codes[row * axis + column + 1] % 16 : 0;
    bytes[static_cast<size_t>(at)] = static_cast<uint8_t>(lower + 16 * upper);
  }
  return bytes;
}

template <class T>
Buffer<T> defined_dequantized(const Shape& shape, const uint8_t* codes, const float* table, const float* scale,
                              const float* zero) {
  Buffer<T> y = buffer_of<T>(shape.count());
  for (int64_t i = 0; i < shape.count(); ++i) {
    const int64_t g = shape.group_of(i);
    const float value = table[codes[i]];
    const float product = zero == nullptr ? value * scale[g] : (value - zero[g] + 0.0f) * scale[g];
    qscale::from_float(product, y[static_cast<size_t>(i)]);
  }
  return y;
}

// Codes, their table, and a scale and a zero point for each group, some of them odd.
struct Coded {
  std::vector<uint8_t> codes;
  std::vector<float> table, scale, zero;
  bool has_zeros;

  Coded(const Shape& shape, bool few, Draws& draws) : has_zeros(draws.below(2) == 0) {
    const float odd[] = {0.0f, -0.0f, INFINITY, NAN, 0x1p-149f, 3e38f, -0.7f};
    const int64_t count = few ? 16 : 256;
    for (int64_t i = 0; i < count; ++i) table.push_back(draws.below(8) == 0 ? odd[draws.below(2)] : draws.unit() * 8.0f);
    for (int64_t i = 0; i < shape.count(); ++i) codes.push_back(static_cast<uint8_t>(draws.below(count)));
    for (int64_t g = 0; g < shape.groups(); ++g) {
      scale.push_back(draws.below(5) == 0 ? odd[draws.below(7)] : draws.unit());
      zero.push_back(draws.below(5) == 0 ? odd[draws.below(7)] : draws.unit() * 8.0f);
    }
  }
};

// Terms first, first + stride, ...: the even ones, then the odd ones. That is the order of halves added to halves.
inline double folded_sum(const std::vector<double>& terms, size_t first, size_t stride) {
  if (first >= terms.size()) return 0.0;
  if (stride >= terms.size()) return terms[first];
  return folded_sum(terms, first, 2 * stride) + folded_sum(terms, first + stride, 2 * stride);
}

// Row after row, in a row chunk after chunk.
class ChunkedSum {
 public:
  void add(double term, bool new_row) {
    if (new_row || chunk_.size() == 1024) close();
    chunk_.push_back(term);
  }
  double total() {
    close();
    return total_;
  }

 private:
  void close() {
    if (!chunk_.empty()) total_ += folded_sum(chunk_, 0, 1);
    chunk_.clear();
  }
  std::vector<double> chunk_;
  double total_ = 0.0;
};

template <class T>
struct Gradients {
  Buffer<T> x;
  std::vector<float> scale, zero;
};

template <class T, class Element>
Gradients<T> defined_gradients(const Shape& shape, const qscale::FakeQuant<Element>& job, const Scales& scales,
                               const qscale::Gradient& asked) {
  const size_t groups = static_cast<size_t>(shape.groups());
  std::vector<ChunkedSum> of_scale(groups), of_zero(groups);
  Gradients<T> found{buffer_of<T>(shape.count()), {}, {}};
  for (int64_t i = 0; i < shape.count(); ++i) {
    const size_t g = static_cast<size_t>(shape.group_of(i));
    const bool new_row = i % shape.layout.axis % shape.layout.group == 0;
    const Input p = input_of<T>(shape, job, scales, i);
    const float grad = qscale::to_float(static_cast<const T*>(asked.grad)[i]);
    const auto slopes = slopes_of(p.x, p.quotient, p.scale, p.zero, job.element, p.random, asked.gate, asked.trust);
    qscale::from_float(slopes.passes ? grad : 0.0f, found.x[static_cast<size_t>(i)]);
    of_scale[g].add(static_cast<double>(grad * slopes.of_scale), new_row);
    of_zero[g].add(static_cast<double>(grad * slopes.of_zero), new_row);
  }
  for (size_t g = 0; g < groups; ++g) {
    found.scale.push_back(static_cast<float>(of_scale[g].total()));
    found.zero.push_back(static_cast<float>(of_zero[g].total()));
  }
  return found;
}
