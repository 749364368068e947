// The rules of other libraries, each at its sizes, and what they give: the scalar arithmetic, an element at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "inputs.h"
#include "known_grid.h"
#include "numerics/dialects/rules.h"

using namespace qscale;  // as every test has it
using namespace qscale::dialects;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// The grids of the elements, in the order of steps.h.
constexpr KnownGrid kElements[] = {kE4M3, kE5M2, {2, 3}, {3, 2}, kE2M1, kFixed};

template <class T>
T narrow(float value) {
  T out;
  from_float(value, out);
  return out;
}

// Tables of logarithms that are exact, as far as they reach: Python asks torch for those in use.
struct Tables {
  Logarithms floor, ceil;
  explicit Tables(int32_t off) {
    for (int field = 0; field < 256; ++field) {
      floor.last[field] = 0x7fffff - off;  // so many below the next power of two go up to it
      ceil.last[field] = off;              // and so many above one down
    }
    ceil.last[0] = 0x400000;  // 2**-127
    floor.last[255] = ceil.last[255] = 0;
  }
};
const Tables kExact(0), kRounded(3);

// Elements, and the ends of groups

template <class Rule, class = void>
struct HasTable : std::false_type {};
template <class Rule>
struct HasTable<Rule, std::void_t<decltype(Rule::table)>> : std::true_type {};

template <class T, class Scale, class Rule>
float value_under(float x, const Scale& scale, const Rule& rule) {
  if constexpr (HasTable<Rule>::value) {
    return dialects::value_of(nearest(looked_up(x, scale, rule), rule.table), scale);
  } else {
    return round_trip<T>(x, scale, rule);
  }
}

// What a rule asks of a group.
inline float reduced(dialects::Ends ends, float) {
  return std::isnan(ends.low) ? ends.low : std::max(std::fabs(ends.low), ends.high);
}
inline dialects::Ends reduced(dialects::Ends ends, dialects::Ends) { return ends; }

template <class T>
std::vector<dialects::Ends> ends_of(const Shape& shape, const T* x) {
  std::vector<dialects::Ends> ends(static_cast<size_t>(shape.groups()), dialects::Ends{0.0f, 0.0f});
  for (int64_t i = 0; i < shape.count(); ++i) {
    dialects::Ends& of_group = ends[static_cast<size_t>(shape.group_of(i))];
    const float v = to_float(x[i]);
    if (std::isnan(v) || std::isnan(of_group.low)) {
      of_group = {kNan, kNan};
    } else {
      of_group = {std::min(of_group.low, v), std::max(of_group.high, v)};
    }
  }
  return ends;
}

// Rules

// Every rule, the grid of its elements, and whether it follows from the largest magnitude of the tensor, which `make`
// takes.
template <class T, class Use>
void for_rules(Use use) {
  const auto with = [&](const char* name, const auto& grid, const auto& rule) {
    use(name, grid, [&](float) { return rule; }, false);
  };
  const auto follows = [&](const char* name, const auto& grid, const auto& make) { use(name, grid, make, true); };
  for (const float half : {2.0f, 8.0f, 128.0f}) {
    const IntGrid grid{-half, half - 1.0f};
    for (const Mapping mapping : {Mapping::symmetric, Mapping::noclip, Mapping::asymmetric}) {
      with("torchao int", grid, TorchaoInt{-half, half - 1.0f, mapping});
      with("torchao affine", grid, TorchaoAffine{-half, half - 1.0f, mapping});
    }
    with("compressed int", grid, CompressedInt{half});
    with("compressed asym", grid, CompressedAsymmetric{half});
    with("modelopt int", grid, ModeloptInt{half - 1.0f});
  }
  for (int64_t index = 0; index < kElementCount; ++index) {
    const Element e = element(index);
    const FloatGrid grid = kElements[index].grid();
    with("torchao float8", grid, TorchaoFloat8{e});
    with("compressed float8", grid, CompressedFloat8{e});
    with("torchao floor", grid, TorchaoMx{e, 0u, 0});
    with("torchao ceil", grid, TorchaoMx{e, 0u, 1});
    with("torchao even", grid, TorchaoMx{e, 1u << (22 - e.mantissa_bits), 0});
    with("compressed mx", grid, compressed_mx(e));
    with("ocp", grid, OcpMx{e});
    for (const Tables* logarithms : {&kExact, &kRounded}) {
      with("torchao rceil", grid, TorchaoMxRceil{e, logarithms->ceil});
      with("microxcaling even", grid, microxcaling<Rounding::even>(e, logarithms->floor));
      with("microxcaling away", grid, microxcaling<Rounding::away>(e, logarithms->floor));
    }
  }
  const FloatGrid fp4 = kE2M1.grid(), fp8 = kE4M3.grid();
  with("modelopt float8", fp8, ModeloptFloat8{});
  with("modelopt mxfp4", fp4, ModeloptMxfp4{kRounded.ceil});
  with("modelopt mxfp8", fp8, ModeloptMxfp8{kRounded.ceil});
  with("modelopt nf4", codebook(0), ModeloptNf4{modelopt_nf4<T>()});
  for (int64_t index = 0; index < 2; ++index) {
    with("bitsandbytes", codebook(index), Bitsandbytes{codebook(index)});
    with("bitsandbytes, the last block", codebook(index), BitsandbytesShort{codebook(index)});
  }
  with("torchao nvfp4, one level", fp4, TorchaoNvfp4{1.0f});
  follows("torchao nvfp4", fp4, [](float absmax) { return torchao_nvfp4(absmax); });
  follows("compressed nvfp4", fp4, [](float absmax) { return compressed_nvfp4<T>(absmax); });
  follows("modelopt nvfp4", fp4, [](float absmax) { return modelopt_nvfp4(absmax); });
  follows("te nvfp4", fp4, [](float absmax) { return te_nvfp4(absmax); });
}

inline float largest_of(const Codebook&) { return 1.0f; }
inline float largest_of(const IntGrid& grid) { return grid.qmax + 0.5f; }
inline float largest_of(const FloatGrid& grid) { return grid.largest; }
