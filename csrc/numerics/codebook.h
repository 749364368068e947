// Tables of sixteen values, the largest magnitude 1, as in bitsandbytes: each element goes to the nearest one.
#pragma once

#include "numerics/rounding.h"

namespace qscale {

// Ascending. `tree` holds the fifteen midpoints in the order of a binary search: from node 1, the next node is
// 2 * node + (v > tree[node]), and after four steps node - 16 is the index. A tie takes the lower value.
//
// For magnitudes up to 1 there is a shorter way: no bin, of kBins of equal width, holds more than one midpoint, so that
// the nearest value is `above` or `below` the midpoint of the bin.
constexpr int kBins = 32;
struct Codebook {
  float values[16];
  float tree[16];
  float midpoint[kBins];
  float below[kBins];
  float above[kBins];
};

// v is in bin round(v * kBinsPerUnit + kBinOfZero), between two of which lies zero.
constexpr float kBinsPerUnit = 15.75f;
constexpr float kBinOfZero = 15.5f;

// The tables of qscale/formats/grids.py, in the order of CODEBOOKS in calls.py; tests hold them together.
constexpr float kCodebooks[][16] = {
    {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
     -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,
     0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f,
     1.0f},
    // Fifteen values: zero stands twice.
    {-1.0f, -0.6666666865348816f, -0.5f, -0.3333333432674408f, -0.25f, -0.1666666716337204f, -0.0052083334885537624f,
     0.0f, 0.0f, 0.0052083334885537624f, 0.1666666716337204f, 0.25f, 0.3333333432674408f, 0.5f, 0.6666666865348816f,
     1.0f},
    // Sixths, and a twelfth on either side of zero, which stands twice.
    {-1.0f, -0.8333333134651184f, -0.6666666865348816f, -0.5f, -0.3333333432674408f, -0.1666666716337204f,
     -0.0833333358168602f, 0.0f, 0.0f, 0.0833333358168602f, 0.1666666716337204f, 0.3333333432674408f, 0.5f,
     0.6666666865348816f, 0.8333333134651184f, 1.0f},
};
constexpr int64_t kCodebookCount = sizeof(kCodebooks) / sizeof(kCodebooks[0]);

// Rounded to float32: the sum of two table values is exact as a double, and so is its half.
constexpr float midpoint_after(const float* values, int i) {
  return static_cast<float>((static_cast<double>(values[i]) + values[i + 1]) / 2.0);
}

// A number this close to the end of a bin, in bins, may be taken for one of the neighbour's.
constexpr double kBinMargin = 0x1p-16;

// Fills a bin; false where it holds two midpoints.
constexpr bool fill_bin(Codebook& book, int bin) {
  const double start = bin - kBinOfZero - 0.5 - kBinMargin, end = start + 1.0 + 2.0 * kBinMargin;
  int found = 0;
  book.midpoint[bin] = 0.0f;
  book.below[bin] = book.above[bin] = book.values[0];
  for (int i = 0; i < 15; ++i) {
    if (book.values[i] == book.values[i + 1]) continue;
    const float midpoint = midpoint_after(book.values, i);
    const double place = static_cast<double>(midpoint) * kBinsPerUnit;
    if (place < start) {
      book.below[bin] = book.above[bin] = book.values[i + 1];
    } else if (place <= end) {
      book.midpoint[bin] = midpoint;
      book.above[bin] = book.values[i + 1];
      ++found;
    }
  }
  return found < 2;
}

constexpr Codebook made_from(const float* values) {
  Codebook made{};
  for (int i = 0; i < 16; ++i) made.values[i] = values[i];
  for (int node = 1; node < 16; ++node) {
    int first = node, levels = 0;  // the leftmost leaf below the node
    for (; first < 16; first *= 2) ++levels;
    made.tree[node] = midpoint_after(values, first - 16 + (1 << (levels - 1)) - 1);
  }
  for (int bin = 0; bin < kBins; ++bin) fill_bin(made, bin);
  return made;
}

struct MadeCodebooks {
  Codebook each[kCodebookCount];
};
constexpr MadeCodebooks made_codebooks() {
  MadeCodebooks made{};
  for (int64_t i = 0; i < kCodebookCount; ++i) made.each[i] = made_from(kCodebooks[i]);
  return made;
}
constexpr MadeCodebooks kMade = made_codebooks();

constexpr bool bins_serve() {
  for (Codebook book : kMade.each) {
    for (int bin = 0; bin < kBins; ++bin) {
      if (!fill_bin(book, bin)) return false;
    }
  }
  return true;
}
static_assert(bins_serve(), "a bin holds two midpoints: make kBins larger");

inline const Codebook& codebook(int64_t index) { return kMade.each[index]; }

QSCALE_HD int codebook_index(float quotient, const Codebook& table) {
  int node = 1;
  for (int level = 0; level < 4; ++level) node = 2 * node + (quotient > table.tree[node] ? 1 : 0);
  return node - 16;
}

// In units of the scale.
QSCALE_HD float value_of(float quotient, float /*zero*/, const Codebook& table, uint32_t /*random*/) {
  return is_nan(quotient) ? quotient : table.values[codebook_index(quotient, table)];
}

QSCALE_HD bool is_two_ended(const Codebook&) { return false; }
QSCALE_HD float zero_point_in_use(float, const Codebook&) { return 0.0f; }

QSCALE_HD bool is_stochastic(const Codebook&) { return false; }

}  // namespace qscale
