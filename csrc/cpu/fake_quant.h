// The kernels of an instruction set: groups in and out of a format, their scales, codes and gradients.
#pragma once

#include "cpu/codes.h"
#include "cpu/dequantize.h"
#include "cpu/gradients.h"
#include "cpu/round_trips.h"

namespace qscale::cpu {
namespace {

template <class V, class T, class Element>
void fake_quant(const FakeQuant<Element>& shared, int64_t first, int64_t last) {
  const FakeQuant<Element> job = shared;  // a copy: writes through y cannot change it
  for_tiles(job.layout, first, last, [&](const Tile& tile) {
    TileScales scales;
    float extent[kTileGroups];
    scales_of<V, T>(job, tile, scales, extent);
    round_trips<V, T>(tile, scales, job);
  });
}

// Without the scale of the tensor, beside which they are stored.
template <class V, class T, class Element>
void scales(const FakeQuant<Element>& job, int64_t first, int64_t last, float* scale, float* zero_point) {
  for_tiles(job.layout, first, last, [&](const Tile& tile) {
    TileScales found;
    float extent[kTileGroups] = {};
    scales_of<V, T>(job, tile, found, extent);
    for (int64_t g = 0; g < tile.count; ++g) {
      const bool alone = job.scaling.tensor_scale == 1.0f;
      scale[tile.number + g] = alone ? found.scale[g] : group_scale(extent[g], job.scaling);
      zero_point[tile.number + g] = found.zero[g];
    }
  });
}

template <class V, class T, class Element>
constexpr GroupKernels<Element> group_kernels() {
  return {fake_quant<V, T, Element>, scales<V, T, Element>, codes<V, T, Element>, gradient<V, T, Element>};
}

template <class V>
constexpr Kernels kernels_of(const char* isa) {
  return {
      isa,
      {group_kernels<V, float, IntGrid>(), group_kernels<V, BFloat16, IntGrid>(), group_kernels<V, Half, IntGrid>()},
      {group_kernels<V, float, FloatGrid>(), group_kernels<V, BFloat16, FloatGrid>(),
       group_kernels<V, Half, FloatGrid>()},
      {group_kernels<V, float, Codebook>(), group_kernels<V, BFloat16, Codebook>(),
       group_kernels<V, Half, Codebook>()},
      {range_of<float>, range_of<BFloat16>, range_of<Half>},
      {absmax_of<V, float>, absmax_of<V, BFloat16>, absmax_of<V, Half>},
      {dequantize<V, float>, dequantize<V, BFloat16>, dequantize<V, Half>},
  };
}

}  // namespace
}  // namespace qscale::cpu
