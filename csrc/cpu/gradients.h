// Gradients of fake quantization: where they pass to x, and what they add up to at a scale and a zero point.
#pragma once

#include "cpu/int_lanes.h"
#include "cpu/random.h"
#include "cpu/scales.h"
#include "numerics/gradients.h"

namespace qscale::cpu {
namespace {

// Sums are of this many products: so any backend can add in the same order.
constexpr int64_t kSumChunk = 1024;

// Halves are added to halves until one number is left. Zeros at the end change no sum that is added to a zero.
template <int64_t size>
[[gnu::always_inline]] inline double folded(const float* terms) {
  double sums[size / 2];
  for (int64_t i = 0; i < size / 2; ++i) {
    sums[i] = static_cast<double>(terms[i]) + static_cast<double>(terms[i + size / 2]);
  }
  for (int64_t half = size / 4; half >= 8; half /= 2) {
#pragma GCC ivdep
    for (int64_t i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  const double a = sums[0] + sums[4], b = sums[1] + sums[5], c = sums[2] + sums[6], d = sums[3] + sums[7];
  return (a + c) + (b + d);
}

// Of n terms, at most kSumChunk, in a buffer of as many.
inline double folded(float* terms, int64_t n) {
  int64_t size = 16;
  while (size < n) size *= 2;
  for (int64_t i = n; i < size; ++i) terms[i] = 0.0f;
  switch (size) {
    case 16:
      return folded<16>(terms);
    case 32:
      return folded<32>(terms);
    case 64:
      return folded<64>(terms);
    case 128:
      return folded<128>(terms);
    case 256:
      return folded<256>(terms);
    case 512:
      return folded<512>(terms);
    default:
      return folded<kSumChunk>(terms);
  }
}

// A chunk of a group: its place, and what its elements add up to.
struct GradientChunk {
  int64_t at, n;
  float scale, zero;
  float of_scale[kSumChunk], of_zero[kSumChunk];
};

// The elements of a chunk as scalar arithmetic takes them.
struct ScalarChunk {
  float x[kSumChunk], grad[kSumChunk];
  uint32_t random[kSumChunk];
};

template <class Element>
[[gnu::noinline]] void to_gradients(ScalarChunk& c, GradientChunk& chunk, const Element& any, Gate gate, float trust) {
  const float scale = chunk.scale, zero = chunk.zero, divisor = divisor_of(scale);
  with_rounding(any, [&](const Element& element) __attribute__((always_inline)) {
    for (int64_t i = 0; i < chunk.n; ++i) {
      const uint32_t random = is_stochastic(element) ? c.random[i] : 0u;
      const Slopes slopes = slopes_of(c.x[i], c.x[i] / divisor, scale, zero, element, random, gate, trust);
      chunk.of_scale[i] = c.grad[i] * slopes.of_scale;
      chunk.of_zero[i] = c.grad[i] * slopes.of_zero;
      c.grad[i] = slopes.passes ? c.grad[i] : 0.0f;
    }
  });
}

template <class T, class Element>
void scalar_gradients(const FakeQuant<Element>& job, const Gradient& out, GradientChunk& chunk) {
  const T* x = static_cast<const T*>(job.x) + chunk.at;
  const T* grad = static_cast<const T*>(out.grad) + chunk.at;
  T* grad_x = static_cast<T*>(out.grad_x) + chunk.at;
  ScalarChunk c;
  RandomChunk random;
  for (int64_t i = 0; i < chunk.n; ++i) c.x[i] = to_float(x[i]);
  for (int64_t i = 0; i < chunk.n; ++i) c.grad[i] = to_float(grad[i]);
  for (int64_t i = 0; is_stochastic(job.element) && i < chunk.n; i += kChunk) {
    const int64_t few = chunk.n - i < kChunk ? chunk.n - i : kChunk;
    draw(static_cast<uint64_t>(chunk.at + i), few, job.seed, random);
    memcpy(c.random + i, random.first, static_cast<size_t>(few) * sizeof(uint32_t));
  }
  to_gradients(c, chunk, job.element, out.gate, out.trust);
  for (int64_t i = 0; i < chunk.n; ++i) from_float(c.grad[i], grad_x[i]);
}

// What slopes_of says of integers, a vector at a time.
template <class V, class T>
void vector_gradients(const FakeQuant<IntGrid>& job, const Gradient& out, GradientChunk& chunk) {
  using Floats = typename V::Floats;
  const T* x = static_cast<const T*>(job.x) + chunk.at;
  const T* grad = static_cast<const T*>(out.grad) + chunk.at;
  T* grad_x = static_cast<T*>(out.grad_x) + chunk.at;
  const IntLanes<V> lanes(job.element);
  const GroupLanes<V> group(chunk.scale, chunk.zero);
  const Floats none = V::splat(0.0f), minus_scale = V::splat(-chunk.scale);
  const Floats reach = V::splat(out.trust * chunk.scale), minus_reach = V::splat(-(out.trust * chunk.scale));
  const Gate gate = out.gate;
  const bool wants_zero = out.grad_zero != nullptr;
  const auto some = [&](int64_t i, Floats v, Floats g) __attribute__((always_inline)) {
    const Floats quotient = V::divide(v, group.divisor), raw = lanes.raw(quotient, group.zero);
    const Floats value = lanes.value(raw, group.zero);
    const Floats place = gate == Gate::lsq ? V::add(quotient, group.zero) : raw;
    const auto inside = V::between(place, lanes.low, lanes.high);
    V::store(chunk.of_scale + i, V::multiply(g, V::select(inside, V::subtract(value, quotient), value)));
    if (wants_zero) V::store(chunk.of_zero + i, V::multiply(g, V::select(inside, none, minus_scale)));
    if (gate == Gate::open) return g;
    if (gate != Gate::trust) return V::select(inside, g, none);
    const Floats error = V::subtract(V::multiply(value, group.scale), v);
    return V::select(V::between(error, minus_reach, reach), g, none);
  };
  int64_t i = 0;
  for (; i + V::width <= chunk.n; i += V::width) V::store(grad_x + i, some(i, V::load(x + i), V::load(grad + i)));
  if (i < chunk.n) {
    const int64_t left = chunk.n - i;
    V::store_first(grad_x + i, some(i, V::load_first(x + i, left), V::load_first(grad + i, left)), left);
  }
}

template <class V, class T, class Element>
void gradient(const FakeQuant<Element>& job, int64_t first, int64_t last, const Gradient& out) {
  GradientChunk chunk;
  for_tiles(job.layout, first, last, [&](const Tile& tile) {
    for (int64_t g = 0; g < tile.count; ++g) {
      chunk.scale = job.scale[tile.number + g];
      chunk.zero = job.zero_point == nullptr ? 0.0f : zero_point_in_use(job.zero_point[tile.number + g], job.element);
      double scale_sum = 0.0, zero_sum = 0.0;
      for (int64_t row = 0; row < tile.rows; ++row) {
        const int64_t start = tile.start + g * tile.group + row * tile.stride, end = start + tile.length(g);
        for (chunk.at = start; chunk.at < end; chunk.at += kSumChunk) {
          chunk.n = end - chunk.at < kSumChunk ? end - chunk.at : kSumChunk;
          bool done = false;
          if constexpr (V::has_fma && std::is_same_v<Element, IntGrid>) {
            done = IntLanes<V>::serves(job.element);
            if (done) vector_gradients<V, T>(job, out, chunk);
          }
          if (!done) scalar_gradients<T>(job, out, chunk);
          scale_sum += folded(chunk.of_scale, chunk.n);
          if (out.grad_zero != nullptr) zero_sum += folded(chunk.of_zero, chunk.n);
        }
      }
      out.grad_scale[tile.number + g] = static_cast<float>(scale_sum);
      if (out.grad_zero != nullptr) out.grad_zero[tile.number + g] = static_cast<float>(zero_sum);
    }
  });
}

}  // namespace
}  // namespace qscale::cpu
