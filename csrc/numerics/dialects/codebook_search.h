// The nearest of sixteen values.
#pragma once

#include "numerics/codebook.h"

namespace qscale::dialects {

// Of a NaN the lowest value.
QSCALE_HD float nearest(float v, const Codebook& book) {
  int node = 1;
  for (int level = 0; level < 4; ++level) node = 2 * node + (v > book.tree[node] ? 1 : 0);
  return book.values[node - 16];
}

// The value below the border that a node of the tree holds: nodes of a level stand evenly between those above.
QSCALE_HD int codebook_border(int node) {
  int first = node, levels = 0;  // the leftmost leaf below the node
  for (; first < 16; first *= 2) ++levels;
  return first - 16 + (1 << (levels - 1)) - 1;
}

}  // namespace qscale::dialects
