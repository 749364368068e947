// Random words by their number: Philox 4x32-10 (Salmon et al., SC 2011). No state, so any order and any thread will do.
#pragma once

#include "numerics/host_device.h"

namespace qscale {

struct PhiloxState {
  uint32_t a, b, c, d;
};

struct PhiloxKey {
  uint32_t low, high;
};

// The upper 64 bits of the counter are zero.
QSCALE_HD PhiloxState philox_start(uint64_t counter) {
  return {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0u, 0u};
}

QSCALE_HD PhiloxKey philox_key(uint64_t seed) {
  return {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
}

QSCALE_HD PhiloxKey philox_next(PhiloxKey key) { return {key.low + 0x9e3779b9u, key.high + 0xbb67ae85u}; }

QSCALE_HD uint32_t upper_product(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(static_cast<uint64_t>(a) * b >> 32);
}

QSCALE_HD PhiloxState philox_round(PhiloxState s, PhiloxKey key) {
  constexpr uint32_t of_a = 0xd2511f53u, of_c = 0xcd9e8d57u;
  return {upper_product(of_c, s.c) ^ s.b ^ key.low, of_c * s.c, upper_product(of_a, s.a) ^ s.d ^ key.high, of_a * s.a};
}

// The four words of a counter.
QSCALE_HD PhiloxState random_words(uint64_t counter, uint64_t seed) {
  PhiloxState s = philox_start(counter);
  PhiloxKey key = philox_key(seed);
  for (int round = 0; round < 10; ++round) {
    s = philox_round(s, key);
    key = philox_next(key);
  }
  return s;
}

// Element `index` of a tensor, counted row by row, takes one of the four words of counter index / 4.
QSCALE_HD uint32_t random_word(uint64_t index, uint64_t seed) {
  const PhiloxState s = random_words(index / 4, seed);
  const uint64_t which = index % 4;
  return which == 0 ? s.a : which == 1 ? s.b : which == 2 ? s.c : s.d;
}

}  // namespace qscale
