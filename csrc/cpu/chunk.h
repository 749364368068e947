// A part of a row as floats, for loops that the compiler makes into vectors.
#pragma once

#include "cpu/group.h"

namespace qscale::cpu {
namespace {

// Elements beside the scale and the zero point of each one's group, so that a loop need not end with a group.
struct Chunk {
  float x[kChunk], scale[kChunk], zero[kChunk];
};

// The scales and zero points of groups for `some` elements from `start` on.
inline void spread(Chunk& c, int64_t start, int64_t some, int64_t group, const float* scale, const float* zero) {
  for (int64_t i = 0; i < some;) {
    const int64_t g = (start + i) / group, left = (g + 1) * group - start, end = left < some ? left : some;
    for (; i < end; ++i) c.scale[i] = scale[g], c.zero[i] = zero[g];
  }
}

template <class V, class T>
void load(Chunk& c, const T* x, int64_t some) {
  int64_t i = 0;
  for (; i + V::width <= some; i += V::width) V::store(c.x + i, V::load(x + i));
  for (; i < some; ++i) c.x[i] = to_float(x[i]);
}

template <class V, class T>
void store(const Chunk& c, T* y, int64_t some) {
  int64_t i = 0;
  for (; i + V::width <= some; i += V::width) V::store(y + i, V::load(c.x + i));
  for (; i < some; ++i) from_float(c.x[i], y[i]);
}

}  // namespace
}  // namespace qscale::cpu
