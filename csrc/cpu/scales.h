// The scales of the groups of a tile, and their zero points.
#pragma once

#include "cpu/group.h"

namespace qscale::cpu {
namespace {

struct TileScales {
  float scale[kTileGroups];  // that of the tensor is in it
  float zero[kTileGroups];
};

// Integers with a zero point span from one end of the group to the other; an integer zero point must be within them.
template <class T>
void two_ended(const FakeQuant<IntGrid>& job, const Tile& tile, TileScales& out, float* extent) {
  float low[kTileGroups] = {}, high[kTileGroups] = {};
  if (job.range == nullptr) ranges(static_cast<const T*>(job.x), tile, low, high);
  const IntGrid grid = job.element;
  for (int64_t g = 0; g < tile.count; ++g) {
    const float least = job.range == nullptr ? low[g] : job.range[0];
    const float most = job.range == nullptr ? high[g] : job.range[1];
    const Span span = spanned(least, most, grid);
    extent[g] = half_range(span.from, span.to);
    out.scale[g] = scale_of(extent[g], job.scaling);
    out.zero[g] = zero_point_of(span.from, divisor_of(out.scale[g]), grid);
  }
}
template <class T, class Element>
void two_ended(const FakeQuant<Element>&, const Tile&, TileScales&, float*) {}

template <class V, class T, class Element>
void computed(const FakeQuant<Element>& job, const Tile& tile, TileScales& out, float* absmax) {
  if (is_two_ended(job.element)) return two_ended<T>(job, tile, out, absmax);
  if (job.range == nullptr) {
    absmaxes<V>(static_cast<const T*>(job.x), tile, absmax);
  } else {
    const float low = fabsf(job.range[0]), high = fabsf(job.range[1]);
    for (int64_t g = 0; g < kTileGroups; ++g) absmax[g] = low > high ? low : high;
  }
  // The rule is asked outside the loops, which are then plain arithmetic.
  const Scaling scaling = job.scaling;
  const auto fill = [&](auto rule) {
    for (int64_t g = 0; g < kTileGroups; ++g) {
      out.scale[g] = rule(absmax[g]);
      out.zero[g] = 0.0f;
    }
  };
  const auto of_kind = [&](ScaleKind kind) {
    Scaling fixed = scaling;
    fixed.kind = kind;
    fill([=](float range) { return scale_of(range, fixed); });
  };
  switch (scaling.kind) {
    case ScaleKind::float32:
      return of_kind(ScaleKind::float32);
    case ScaleKind::floor:
      return of_kind(ScaleKind::floor);
    case ScaleKind::e4m3:
      return of_kind(ScaleKind::e4m3);
    default:
      return of_kind(scaling.kind);
  }
}

// Those of the caller, or the tile's own, which come of its extents: the largest magnitude or half the distance of the
// ends.
template <class V, class T, class Element>
void scales_of(const FakeQuant<Element>& job, const Tile& tile, TileScales& out, float* extent) {
  if (job.scale == nullptr) return computed<V, T>(job, tile, out, extent);
  for (int64_t g = 0; g < tile.count; ++g) {
    out.scale[g] = job.scale[tile.number + g];
    out.zero[g] = job.zero_point == nullptr ? 0.0f : zero_point_in_use(job.zero_point[tile.number + g], job.element);
  }
  for (int64_t g = tile.count; g < kTileGroups; ++g) out.scale[g] = out.zero[g] = 0.0f;
}

}  // namespace
}  // namespace qscale::cpu
