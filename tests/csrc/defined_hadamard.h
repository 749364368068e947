// What Hadamard kernels must give: a plain loop in the order of operations that defines the bits.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

// One block, as qscale/kernels/hadamard_reference.py states it; `matrix` is of +-1, row after row.
inline std::vector<float> defined_hadamard(std::vector<float> v, int64_t base, int64_t inner, const float* matrix,
                                           float scale) {
  const int64_t n = base * inner;
  for (int64_t h = 1; h < inner; h *= 2) {
    for (int64_t i = 0; i < n; ++i) {
      if ((i % inner & h) != 0) continue;
      float &low = v[static_cast<size_t>(i)], &high = v[static_cast<size_t>(i + h)];
      const float sum = low + high;
      high = low - high;
      low = sum;
    }
  }
  std::vector<float> y(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    const int64_t row = i / inner, column = i % inner;
    float total = v[static_cast<size_t>(column)];
    if (base > 1) total *= matrix[row * base];
    for (int64_t c = 1; c < base; ++c) total += matrix[row * base + c] * v[static_cast<size_t>(c * inner + column)];
    y[static_cast<size_t>(i)] = total * scale;
  }
  return y;
}
