// Random words of neighbouring elements.
#pragma once

#include "cpu/group.h"
#include "numerics/philox.h"

namespace qscale::cpu {
namespace {

// Those of up to kChunk elements.
struct RandomChunk {
  uint32_t words[kChunk + 64];
  const uint32_t* first;
};

// Sixteen counters at a time.
inline void draw(uint64_t index, int64_t n, uint64_t seed, RandomChunk& out) {
  const uint64_t counter = index / 4;
  const int64_t counters = static_cast<int64_t>((index + static_cast<uint64_t>(n) + 3) / 4 - counter);
  for (int64_t c = 0; c < counters; c += 16) {
    PhiloxState s[16];
    for (int64_t k = 0; k < 16; ++k) s[k] = philox_start(counter + static_cast<uint64_t>(c + k));
    PhiloxKey key = philox_key(seed);
    for (int round = 0; round < 10; ++round) {
      for (int64_t k = 0; k < 16; ++k) s[k] = philox_round(s[k], key);
      key = philox_next(key);
    }
    for (int64_t k = 0; k < 16; ++k) {
      for (int64_t w = 0; w < 4; ++w) out.words[4 * (c + k) + w] = s[k].words[w];
    }
  }
  out.first = out.words + index % 4;
}

}  // namespace
}  // namespace qscale::cpu
