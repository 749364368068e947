// Fake quantization by the rules of other libraries: scalar arithmetic, which the compiler makes into vectors.
#pragma once

#include <limits>
#include <type_traits>

#include "cpu/codebook_lanes.h"
#include "cpu/dialect_kernels.h"
#include "cpu/strips.h"

namespace qscale::cpu {
namespace {

// The scales of as many groups are computed at once, so that one does not wait for the other.
constexpr int64_t kTile = 16;
// The elements of a tile are read twice: they should stay in the first cache.
constexpr int64_t kTileElements = 4096;

template <class T>
using Pattern = std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>;

QSCALE_HD float number_of(uint32_t bits, float) { return float_of(bits); }
template <class T>
QSCALE_HD float number_of(uint16_t bits, T) {
  return to_float(T{bits});
}

// Magnitudes are compared as integers: their order is that of the floats, with NaN above infinity, so a NaN stays.
template <class T>
[[gnu::always_inline]] inline Pattern<T> largest_pattern(const T* x, int64_t n) {
  constexpr auto magnitude = static_cast<Pattern<T>>(std::numeric_limits<std::make_signed_t<Pattern<T>>>::max());
  Pattern<T> largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    Pattern<T> bits;
    memcpy(&bits, x + i, sizeof bits);
    bits = static_cast<Pattern<T>>(bits & magnitude);
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

template <class T>
[[gnu::always_inline]] inline float largest_of(const T* x, int64_t n) {
  return number_of(largest_pattern(x, n), T{});
}

template <class T>
uint32_t magnitude_of(const void* x, int64_t n) {
  return bits_of(largest_of(static_cast<const T*>(x), n));
}

// Patterns as integers in the order of the numbers, -0 below +0 and NaN past the infinities; its own inverse.
QSCALE_HD int32_t in_order(int32_t bits) { return bits ^ (bits >> 31 & INT32_MAX); }
QSCALE_HD int16_t in_order(int16_t bits) { return static_cast<int16_t>(bits ^ (bits >> 15 & INT16_MAX)); }

template <class T>
[[gnu::always_inline]] inline dialects::Ends ends_of(const T* x, int64_t n) {
  using Key = std::make_signed_t<Pattern<T>>;
  Key low = 0, high = 0;
  for (int64_t i = 0; i < n; ++i) {
    Key key;
    memcpy(&key, x + i, sizeof key);
    key = in_order(key);
    low = key < low ? key : low;
    high = key > high ? key : high;
  }
  const float least = number_of(static_cast<Pattern<T>>(in_order(low)), T{});
  const float most = number_of(static_cast<Pattern<T>>(high), T{});
  const bool nan = is_nan(least) || is_nan(most);
  return nan ? dialects::Ends{quiet_nan(), quiet_nan()} : dialects::Ends{least, most};
}

// What a rule wants to know of a group: its largest magnitude, or both ends.
template <class T, class Rule>
[[gnu::always_inline]] inline float reduced(const T* x, int64_t n, const Rule&, float) {
  return largest_of(x, n);
}
template <class T, class Rule>
[[gnu::always_inline]] inline dialects::Ends reduced(const T* x, int64_t n, const Rule& rule, dialects::Ends) {
  if (needs_ends(rule)) return ends_of(x, n);
  const float largest = largest_of(x, n);
  return {-largest, largest};
}

// Groups one after the other.
struct Cursor {
  int64_t axis, group;
  int64_t at;     // in the tensor
  int64_t start;  // in the row

  int64_t length() const { return axis - start < group ? axis - start : group; }
  void step() {
    const int64_t n = length();
    at += n;
    start = start + n == axis ? 0 : start + n;
  }
};

// One strip of a group in and out of a rule, element by element or, with a table, by lookups.
template <class Rule, class = void>
struct RoundTrip {
  template <int64_t N, class T, class Scale>
  [[gnu::always_inline]] static inline void strip(const T* x, T* y, const Scale& scale, const Rule& rule) {
    transform_strip<N>(x, y, [&](float value) { return dialects::round_trip<T>(value, scale, rule); });
  }
};

template <class Rule>
struct RoundTrip<Rule, std::void_t<decltype(Rule::table)>> {
  template <int64_t N, class T, class Scale>
  [[gnu::always_inline]] static inline void strip(const T* x, T* y, const Scale& scale, const Rule& rule) {
    for (int64_t start = 0; start < N; start += kLanes) {
      alignas(64) float v[kLanes];
      widen(x + start, v);
#pragma GCC unroll 1
      for (int64_t i = 0; i < kLanes; ++i) v[i] = dialects::looked_up(v[i], scale, rule);
      to_nearest(v, rule.table);
#pragma GCC unroll 1
      for (int64_t i = 0; i < kLanes; ++i) v[i] = dialects::value_of(v[i], scale);
      narrow(v, y + start);
    }
  }
};

// Groups of `Fixed` elements, or of any length where it is 0: loops of a fixed length have no ends to see to.
template <int64_t Fixed, class T, class Rule>
void run_tiles(const DialectJob<Rule>& job, Cursor writer, int64_t groups) {
  using Reduced = typename Rule::Reduced;
  const Rule rule = job.rule;  // a copy: writes through y cannot change it
  const int64_t fit = kTileElements / job.group, most = fit < 1 ? 1 : fit < kTile ? fit : kTile;
  const T* x = static_cast<const T*>(job.x);
  T* y = static_cast<T*>(job.y);
  for (int64_t number = 0; number < groups; number += most) {
    const int64_t count = groups - number < most ? groups - number : most;
    Reduced reductions[kTile] = {};
    Cursor reader = writer;
    for (int64_t g = 0; g < count; ++g, reader.step()) {
      reductions[g] = reduced(x + reader.at, Fixed == 0 ? reader.length() : Fixed, rule, Reduced{});
    }
    decltype(dialects::scale_of<T>(Reduced{}, rule)) scales[kTile];
#pragma GCC unroll 1
    for (int64_t g = 0; g < kTile; ++g) scales[g] = dialects::scale_of<T>(reductions[g], rule);
    for (int64_t g = 0; g < count; ++g, writer.step()) {
      const auto scale = scales[g];
      const auto strip = [&](const T* from, T* to, auto length) {
        RoundTrip<Rule>::template strip<decltype(length)::value>(from, to, scale, rule);
      };
      if constexpr (Fixed == 0) {
        in_strips(x + writer.at, y + writer.at, writer.length(), strip);
      } else {
        strip(x + writer.at, y + writer.at, std::integral_constant<int64_t, Fixed>{});
      }
    }
  }
}

template <class T, class Rule>
void dialect(const DialectJob<Rule>& job, int64_t first, int64_t last) {
  const int64_t groups_per_row = (job.axis + job.group - 1) / job.group;
  const int64_t row = first / groups_per_row, start = (first - row * groups_per_row) * job.group;
  const Cursor cursor{job.axis, job.group, row * job.axis + start, start};
  const bool whole = job.axis % job.group == 0;
  const auto run = whole && job.group == 32   ? run_tiles<32, T, Rule>
                   : whole && job.group == 16 ? run_tiles<16, T, Rule>
                                              : run_tiles<0, T, Rule>;
  run(job, cursor, last - first);
}

template <class... Rules>
constexpr KernelTable<Rules...> kernels_of(const KernelTable<Rules...>*) {
  return {KernelsOf<Rules>{{dialect<float, Rules>, dialect<BFloat16, Rules>, dialect<Half, Rules>}}...,
          {magnitude_of<float>, magnitude_of<BFloat16>, magnitude_of<Half>}};
}

constexpr DialectKernels all_dialect_kernels() { return kernels_of(static_cast<const DialectKernels*>(nullptr)); }

}  // namespace
}  // namespace qscale::cpu
