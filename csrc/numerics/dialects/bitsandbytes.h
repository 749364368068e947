// bitsandbytes 0.50.2, one block and one element at a time; qscale/kernels/dialects/bitsandbytes.py defines it.
#pragma once

#include "numerics/dialects/codebook_search.h"
#include "numerics/dialects/steps.h"

namespace qscale::dialects {

struct Bitsandbytes {
  using Reduced = float;
  Codebook table;
};

// The last block of a tensor where it is short: the library divides there.
struct BitsandbytesShort {
  using Reduced = float;
  Codebook table;
};

struct BlockScale {
  float by, absmax;
};

template <class T>
QSCALE_HD BlockScale scale_of(float absmax, const Bitsandbytes&) {
  return {1.0f / at_least(absmax, 1e-38f), absmax};
}

template <class T>
QSCALE_HD BlockScale scale_of(float absmax, const BitsandbytesShort&) {
  return {at_least(absmax, 1e-38f), absmax};
}

// What is looked up, and the value of what was found. A NaN, which comes of infinities, is past every border; numbers
// past the ends need no clamp.
QSCALE_HD float past_the_end(float scaled) { return scaled == scaled ? scaled : 1.0f; }

QSCALE_HD float looked_up(float x, const BlockScale& s, const Bitsandbytes&) { return past_the_end(x * s.by); }
QSCALE_HD float looked_up(float x, const BlockScale& s, const BitsandbytesShort&) { return past_the_end(x / s.by); }
QSCALE_HD float value_of(float found, const BlockScale& s) { return found * s.absmax; }

}  // namespace qscale::dialects
