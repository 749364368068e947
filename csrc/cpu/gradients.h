// Gradients of fake quantization: where they pass to x, and what they add up to at a scale and a zero point.
#pragma once

#include "cpu/random.h"
#include "cpu/scales.h"
#include "numerics/gradients.h"

namespace qscale::cpu {
namespace {

// Sums are of this many products: so any backend can add in the same order.
constexpr int64_t kSumChunk = 1024;

// Halves are added to halves until one number is left; n is at most kSumChunk.
inline double folded(double* terms, int64_t n) {
  int64_t size = 1;
  while (size < n) size *= 2;
  for (int64_t i = n; i < size; ++i) terms[i] = 0.0;
  for (size /= 2; size > 0; size /= 2) {
    for (int64_t i = 0; i < size; ++i) terms[i] += terms[i + size];
  }
  return terms[0];
}

// What a chunk of elements passes on, in place of their gradients, and adds up to.
struct GradientChunk {
  float x[kSumChunk], grad[kSumChunk];
  uint32_t random[kSumChunk];
  double of_scale[kSumChunk], of_zero[kSumChunk];
};

template <class Element>
[[gnu::noinline]] void to_gradients(GradientChunk& c, int64_t n, float scale, float zero, const Element& any, Gate gate,
                                    float trust) {
  const float divisor = divisor_of(scale);
  with_rounding(any, [&](const Element& element) __attribute__((always_inline)) {
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t random = is_stochastic(element) ? c.random[i] : 0u;
      const Slopes slopes = slopes_of(c.x[i], c.x[i] / divisor, scale, zero, element, random, gate, trust);
      c.of_scale[i] = static_cast<double>(c.grad[i] * slopes.of_scale);
      c.of_zero[i] = static_cast<double>(c.grad[i] * slopes.of_zero);
      c.grad[i] = slopes.passes ? c.grad[i] : 0.0f;
    }
  });
}

template <class T, class Element>
void gradient(const FakeQuant<Element>& job, int64_t first, int64_t last, const Gradient& out) {
  const Element element = job.element;
  const T* x = static_cast<const T*>(job.x);
  const T* grad = static_cast<const T*>(out.grad);
  T* grad_x = static_cast<T*>(out.grad_x);
  GradientChunk c;
  RandomChunk random;
  for_tiles(job.layout, first, last, [&](const Tile& tile) {
    for (int64_t g = 0; g < tile.count; ++g) {
      const float scale = job.scale[tile.number + g];
      const float zero = job.zero_point == nullptr ? 0.0f : zero_point_in_use(job.zero_point[tile.number + g], element);
      double scale_sum = 0.0, zero_sum = 0.0;
      for (int64_t row = 0; row < tile.rows; ++row) {
        const int64_t start = tile.start + g * tile.group + row * tile.stride, end = start + tile.length(g);
        for (int64_t at = start; at < end; at += kSumChunk) {
          const int64_t some = end - at < kSumChunk ? end - at : kSumChunk;
          for (int64_t i = 0; i < some; ++i) c.x[i] = to_float(x[at + i]);
          for (int64_t i = 0; i < some; ++i) c.grad[i] = to_float(grad[at + i]);
          for (int64_t i = 0; is_stochastic(element) && i < some; i += kChunk) {
            const int64_t few = some - i < kChunk ? some - i : kChunk;
            draw(static_cast<uint64_t>(at + i), few, job.seed, random);
            memcpy(c.random + i, random.first, static_cast<size_t>(few) * sizeof(uint32_t));
          }
          to_gradients(c, some, scale, zero, element, out.gate, out.trust);
          for (int64_t i = 0; i < some; ++i) from_float(c.grad[i], grad_x[at + i]);
          scale_sum += folded(c.of_scale, some);
          zero_sum += folded(c.of_zero, some);
        }
      }
      out.grad_scale[tile.number + g] = static_cast<float>(scale_sum);
      out.grad_zero[tile.number + g] = static_cast<float>(zero_sum);
    }
  });
}

}  // namespace
}  // namespace qscale::cpu
