// What the kernels are given: tensors in groups of every kind, and the groups in several calls.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "check.h"
#include "defined.h"

inline Shape rows_of(int64_t rows, int64_t axis, int64_t group) { return {qscale::Layout{axis, group}, rows}; }

inline const char* name_of(qscale::DType dtype) {
  const char* names[] = {"float32", "bfloat16", "float16"};
  return names[static_cast<int>(dtype)];
}

// A quotient on a tie between two values of the element, or on a value.
inline float tie_of(const qscale::IntGrid& grid, Draws& draws) {
  const int64_t most = static_cast<int64_t>(std::min(grid.qmax, 1000.0f));
  return static_cast<float>(draws.between(-2 * most, 2 * most)) * 0.5f;
}
inline float tie_of(const qscale::FloatGrid& grid, Draws& draws) {
  const int64_t one = int64_t{2} << grid.mantissa_bits, top = std::ilogb(grid.largest);
  const int64_t exponent = draws.between(std::max<int64_t>(grid.min_exponent - 1, top - 12), top);
  const int64_t last_place = exponent - grid.mantissa_bits - 1;
  const float value = std::ldexp(static_cast<float>(one + draws.below(one)), static_cast<int>(last_place));
  return std::copysign(std::min(value, grid.largest), draws.unit());
}
inline float tie_of(const qscale::Codebook& table, Draws& draws) { return table.tree[draws.between(1, 15)]; }

// What the elements of a group have in common. From `any` on, a group may hold what is not finite.
enum class Flavour {
  ordinary, ordinary_too, ties, ties_too, zeros, tiny, wide, one_sided, huge, any, with_nan, with_infinity, count
};

// Groups of every flavour side by side.
template <class T, class Element>
Buffer<T> filled(const Shape& shape, const Element& element, float largest, bool finite, Draws& draws) {
  const bool half = std::is_same_v<T, qscale::Half>;
  struct Group {
    Flavour flavour;
    float unit;
    bool negative, begun;
  };
  std::vector<Group> groups;
  for (int64_t g = 0; g < shape.groups(); ++g) {
    const auto flavour = static_cast<Flavour>(draws.below(static_cast<int>(finite ? Flavour::any : Flavour::count)));
    const bool far = draws.below(3) == 0;  // to the ends of what float32 holds
    const int64_t reach = flavour == Flavour::wide || far ? (half ? 24 : 126) : (half ? 5 : 20);
    const int64_t exponent = flavour == Flavour::tiny ? (half ? -20 : -135) : draws.between(-reach, half ? 5 : reach);
    const float mantissa = draws.below(3) == 0 ? 1.5f + 0.5f * draws.unit() : 1.0f;
    groups.push_back({flavour, std::ldexp(mantissa, static_cast<int>(exponent)), draws.below(2) == 0, false});
  }
  Buffer<T> x = buffer_of<T>(shape.count());
  for (int64_t i = 0; i < shape.count(); ++i) {
    Group& group = groups[static_cast<size_t>(shape.group_of(i))];
    float value = draws.unit() * group.unit;
    switch (group.flavour) {
      case Flavour::ties:
      case Flavour::ties_too:
        value = (group.begun ? tie_of(element, draws) : largest) * group.unit;
        if (draws.below(4) == 0) value = std::nextafter(value, draws.unit() * INFINITY);
        break;
      case Flavour::zeros:
        value = std::copysign(0.0f, value);
        break;
      case Flavour::wide:
        value = std::ldexp(value, -static_cast<int>(draws.below(40)));
        break;
      case Flavour::one_sided:
        value = (value + 2.0f * group.unit) * (group.negative ? -1.0f : 1.0f);
        break;
      case Flavour::huge:
        value = draws.unit() * (half ? 65504.0f : 0x1.fep127f);
        break;
      case Flavour::any:
        value = qscale::float_of(draws.word());
        break;
      case Flavour::with_nan:
        value = draws.below(4) == 0 ? qscale::quiet_nan() : value;
        break;
      case Flavour::with_infinity:
        value = draws.below(4) == 0 ? std::copysign(INFINITY, value) : value;
        break;
      default:
        break;
    }
    group.begun = true;
    T& out = x[static_cast<size_t>(i)];
    qscale::from_float(value, out);
    if (finite && !qscale::is_finite(qscale::to_float(out))) qscale::from_float(1.0f, out);
  }
  return x;
}

// All groups in three calls, not in order.
template <class Run>
void in_pieces(int64_t groups, Draws& draws, Run run) {
  const int64_t a = draws.between(0, groups), b = draws.between(a, groups);
  run(b, groups);
  run(0, a);
  run(a, b);
}

template <class T>
void check_all(const T* got, const T* wanted, int64_t n, const char* what) {
  if (std::memcmp(got, wanted, static_cast<size_t>(n) * sizeof(T)) == 0) return;  // NaNs may still differ
  for (int64_t i = 0; i < n; ++i) check_same(got[i], wanted[i], what, i);
}
