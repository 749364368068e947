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

// A NaN is past every border; it comes of infinities. Values past the ends need no clamp.
QSCALE_HD float bitsandbytes_value(float scaled, const Codebook& table) {
  return nearest(scaled == scaled ? scaled : 1.0f, table);
}

template <class T>
QSCALE_HD float round_trip(float x, const BlockScale& s, const Bitsandbytes& rule) {
  return bitsandbytes_value(x * s.by, rule.table) * s.absmax;
}

template <class T>
QSCALE_HD float round_trip(float x, const BlockScale& s, const BitsandbytesShort& rule) {
  return bitsandbytes_value(x / s.by, rule.table) * s.absmax;
}

}  // namespace qscale::dialects
