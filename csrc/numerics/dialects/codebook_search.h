// The nearest of sixteen values without a branch or a lookup, so that loops over it become vectors.
#pragma once

#include "numerics/codebook.h"

namespace qscale::dialects {

// The tree of codebook.h: a step down goes right where the value is above the node. Of a NaN the lowest value.
QSCALE_HD float nearest(float v, const Codebook& book) {
  const float* t = book.tree;
  const float* u = book.values;
  const bool a = v > t[1];
  const bool b = v > (a ? t[3] : t[2]);
  const bool c = v > (a ? (b ? t[7] : t[6]) : (b ? t[5] : t[4]));
  const float left = b ? (c ? t[11] : t[10]) : (c ? t[9] : t[8]);
  const float right = b ? (c ? t[15] : t[14]) : (c ? t[13] : t[12]);
  const bool d = v > (a ? right : left);
  const float lowest = c ? (d ? u[3] : u[2]) : (d ? u[1] : u[0]);
  const float lower = c ? (d ? u[7] : u[6]) : (d ? u[5] : u[4]);
  const float higher = c ? (d ? u[11] : u[10]) : (d ? u[9] : u[8]);
  const float highest = c ? (d ? u[15] : u[14]) : (d ? u[13] : u[12]);
  return a ? (b ? highest : higher) : (b ? lower : lowest);
}

// The value below the border that a node of the tree holds: nodes of a level stand evenly between those above.
QSCALE_HD int codebook_border(int node) {
  int first = node, levels = 0;  // the leftmost leaf below the node
  for (; first < 16; first *= 2) ++levels;
  return first - 16 + (1 << (levels - 1)) - 1;
}

}  // namespace qscale::dialects
