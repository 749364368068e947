// Fake quantization of the groups of rows, and the table of kernels of an instruction set.
#pragma once

#include "cpu/round_trips.h"

namespace qscale::cpu {
namespace {

template <class V, class T, class Format>
void fake_quant(const FakeQuant<Format>& job, int64_t first, int64_t last) {
  const Format format = job.format;  // a copy: writes through y cannot change it
  const int64_t axis = job.axis, group = job.group;
  const int64_t groups_per_row = (axis + group - 1) / group;
  const int64_t row = first / groups_per_row;
  int64_t start = (first - row * groups_per_row) * group;  // within the row
  const T* x = static_cast<const T*>(job.x) + row * axis + start;
  T* y = static_cast<T*>(job.y) + row * axis + start;
  for (int64_t index = first; index < last; ++index) {
    const int64_t left = axis - start;
    const int64_t n = left < group ? left : group;
    round_trip<V>(x, y, n, absmax<V>(x, n), format);
    x += n;
    y += n;
    start = n == left ? 0 : start + n;
  }
}

template <class V>
constexpr Kernels kernels_of(const char* isa) {
  return {
      isa,
      {fake_quant<V, float, IntGrid>, fake_quant<V, BFloat16, IntGrid>, fake_quant<V, Half, IntGrid>},
      {fake_quant<V, float, ScaledFloat>, fake_quant<V, BFloat16, ScaledFloat>, fake_quant<V, Half, ScaledFloat>},
      {fake_quant<V, float, Nvfp4>, fake_quant<V, BFloat16, Nvfp4>, fake_quant<V, Half, Nvfp4>},
      {fake_quant<V, float, Codebook>, fake_quant<V, BFloat16, Codebook>, fake_quant<V, Half, Codebook>},
      {absmax_bits<V, float>, absmax_bits<V, BFloat16>, absmax_bits<V, Half>},
  };
}

}  // namespace
}  // namespace qscale::cpu
