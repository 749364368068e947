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

template <class T, class Element>
void gradient(const FakeQuant<Element>& job, int64_t first, int64_t last, const Gradient& out) {
  const Element element = job.element;
  const T* all_x = static_cast<const T*>(job.x);
  const T* all_grad = static_cast<const T*>(out.grad);
  T* all_grad_x = static_cast<T*>(out.grad_x);
  for_tiles(job.layout, first, last, [&](const Tile& tile) {
    for (int64_t g = 0; g < tile.count; ++g) {
      const float scale = job.scale[tile.number + g], divisor = divisor_of(scale);
      const float zero = job.zero_point == nullptr ? 0.0f : zero_point_in_use(job.zero_point[tile.number + g], element);
      double scale_sum = 0.0, zero_sum = 0.0;
      for (int64_t row = 0; row < tile.rows; ++row) {
        const int64_t start = tile.start + g * tile.group + row * tile.stride, n = tile.length(g);
        for (int64_t done = 0; done < n; done += kSumChunk) {
          const int64_t at = start + done, some = n - done < kSumChunk ? n - done : kSumChunk;
          double of_scale[kSumChunk], of_zero[kSumChunk];
          uint32_t words[kSumChunk] = {};
          if (is_stochastic(element)) {
            RandomChunk random;
            for (int64_t c = 0; c < some; c += kChunk) {
              const int64_t few = some - c < kChunk ? some - c : kChunk;
              draw(static_cast<uint64_t>(at + c), few, job.seed, random);
              for (int64_t i = 0; i < few; ++i) words[c + i] = random.first[i];
            }
          }
          for (int64_t i = 0; i < some; ++i) {
            const float x = to_float(all_x[at + i]), grad = to_float(all_grad[at + i]);
            const Slopes slopes = slopes_of(x, x / divisor, scale, zero, element, words[i], out.gate, out.trust);
            from_float(slopes.passes ? grad : 0.0f, all_grad_x[at + i]);
            of_scale[i] = static_cast<double>(grad * slopes.of_scale);
            of_zero[i] = static_cast<double>(grad * slopes.of_zero);
          }
          scale_sum += folded(of_scale, some);
          zero_sum += folded(of_zero, some);
        }
      }
      out.grad_scale[tile.number + g] = static_cast<float>(scale_sum);
      out.grad_zero[tile.number + g] = static_cast<float>(zero_sum);
    }
  });
}

}  // namespace
}  // namespace qscale::cpu
