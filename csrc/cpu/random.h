// Random words of neighbouring elements, and the ways to round.
#pragma once

#include <type_traits>

#include "cpu/group.h"
#include "numerics/philox.h"

namespace qscale::cpu {
namespace {

// Those of up to kChunk elements.
struct RandomChunk {
  uint32_t words[kChunk + 8];
  const uint32_t* first = words;
};

// All counters a round at a time, for the compiler to vectorize.
[[gnu::noinline, maybe_unused]] static void draw(uint64_t index, int64_t n, uint64_t seed, RandomChunk& out) {
  constexpr int64_t most = kChunk / 4 + 1;
  uint32_t a[most], b[most], c[most], d[most];
  const uint64_t counter = index / 4;
  const int64_t counters = static_cast<int64_t>((index + static_cast<uint64_t>(n) + 3) / 4 - counter);
  for (int64_t k = 0; k < counters; ++k) {
    const PhiloxState s = philox_start(counter + static_cast<uint64_t>(k));
    a[k] = s.a, b[k] = s.b, c[k] = s.c, d[k] = s.d;
  }
  PhiloxKey key = philox_key(seed);
  for (int round = 0; round < 10; ++round) {
    for (int64_t k = 0; k < counters; ++k) {
      const PhiloxState s = philox_round({a[k], b[k], c[k], d[k]}, key);
      a[k] = s.a, b[k] = s.b, c[k] = s.c, d[k] = s.d;
    }
    key = philox_next(key);
  }
  for (int64_t k = 0; k < counters; ++k) {
    uint32_t* to = out.words + 4 * k;
    to[0] = a[k], to[1] = b[k], to[2] = c[k], to[3] = d[k];
  }
  out.first = out.words + index % 4;
}

// Calls `use` with the element, its rounding known to the compiler: loops then hold no question.
template <class Element, class Use>
[[gnu::always_inline]] inline void with_rounding(Element element, Use use) {
  if constexpr (std::is_same_v<Element, Codebook>) {
    use(element);
  } else {
    const Rounding rounding = element.rounding;
    if (rounding == Rounding::even) {
      element.rounding = Rounding::even;
      use(element);
    } else if (rounding == Rounding::away) {
      element.rounding = Rounding::away;
      use(element);
    } else {
      element.rounding = Rounding::stochastic;
      use(element);
    }
  }
}

}  // namespace
}  // namespace qscale::cpu
