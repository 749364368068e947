// Scales and zero points, against their definitions worked out in double.
#include <cmath>
#include <initializer_list>
#include <limits>
#include <vector>

#include "check.h"
#include "known_grid.h"
#include "numerics/int_quant.h"
#include "numerics/scaling.h"

namespace {

using namespace qscale;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kMost = std::numeric_limits<float>::max();

// OCP MX 1.0, section 6.3, and the rules in use beside it; `value` above zero.
int exponent_of(float range, const Scaling& s) {
  const double value = s.kind == ScaleKind::rceil ? static_cast<double>(range / s.largest) : static_cast<double>(range);
  if (value == 0.0) return -127;
  const int below = std::ilogb(value), above = below + (std::ldexp(1.0, below) < value ? 1 : 0);
  const double step = std::ldexp(1.0, below - s.below_top);
  const int exponent = s.kind == ScaleKind::rceil  ? above
                       : s.kind == ScaleKind::ceil ? above - s.top
                       : s.kind == ScaleKind::even ? std::ilogb(std::floor(value / step + 0.5) * step) - s.top
                                                   : below - s.top;
  return exponent < -127 ? -127 : exponent > 127 ? 127 : exponent;
}

float wanted_scale(float range, const Scaling& s) {
  if (!std::isfinite(range)) return quiet_nan();
  const float ratio = range / s.largest, inner = ratio / s.tensor_scale;
  switch (s.kind) {
    case ScaleKind::float32:
      return ratio;
    case ScaleKind::float16:
      return static_cast<float>(KnownGrid{5, 10, 1 << 10}.nearest(inner));
    case ScaleKind::bfloat16:
      return static_cast<float>(KnownGrid{8, 7, 1 << 7}.nearest(inner));
    case ScaleKind::e4m3:
      return static_cast<float>(kE4M3.nearest(inner));
    default:
      return static_cast<float>(std::ldexp(1.0, exponent_of(range, s)));
  }
}

void check_kind(const Scaling& s) {
  std::vector<float> ranges{0.0f, kMost, kInfinity, quiet_nan(), 0x1p-149f, 0x3p-149f, 0x1.fffffcp-127f};
  for (int exponent = -149; exponent < 128; exponent += exponent < -120 || exponent > 120 ? 1 : 3) {
    for (const double by : {1.0, 1.25, 1.5, 1.75, 1.875, 1.9375}) {
      ranges.push_back(static_cast<float>(std::ldexp(by, exponent)));
      ranges.push_back(static_cast<float>(std::ldexp(by, exponent)) * s.largest);
    }
  }
  for (const float range : ranges) {
    for (const float at : {std::nextafter(range, 0.0f), range, std::nextafter(range, kInfinity)}) {
      const float own = wanted_scale(at, s);
      check_same(group_scale(at, s), own, "scale of a group", bits_of(at));
      check_same(scale_of(at, s), own * s.tensor_scale, "scale", bits_of(at));
      if (is_power_of_two(s.kind) && std::isfinite(at)) {
        check_equal(static_cast<uint32_t>(mx_exponent(at, s)), static_cast<uint32_t>(exponent_of(at, s)), "exponent",
                    bits_of(at));
      }
    }
  }
}

void check_kinds() {
  for (const KnownGrid& known : {kE2M1, kE4M3, kE5M2, kE3M0, kFixed, KnownGrid{8, 7, 1 << 7}}) {
    const FloatGrid grid = known.grid();
    const int top = std::ilogb(grid.largest);
    for (int32_t kind = 0; kind < 8; ++kind) {
      Scaling s{static_cast<ScaleKind>(kind), grid.largest, 1.0f, top,
                top - (top > grid.min_exponent ? top : grid.min_exponent) + grid.mantissa_bits};
      check_kind(s);
      if (s.kind != ScaleKind::e4m3) continue;
      for (const float tensor_scale : {3.0f, 0x1.23456p-20f, 0x1p-140f, 0x1p100f, quiet_nan()}) {
        s.tensor_scale = tensor_scale;
        check_kind(s);
      }
    }
  }
  // By hand, for E2M1: 6 is its largest, 4 the power of two below.
  const auto is = [](ScaleKind kind, float range, float wanted) {
    check_same(scale_of(range, Scaling{kind, 6.0f, 1.0f, 2, 1}), wanted, "by hand", static_cast<int>(kind));
  };
  is(ScaleKind::floor, 7.0f, 1.0f);
  is(ScaleKind::ceil, 7.0f, 2.0f);
  is(ScaleKind::rceil, 6.0f, 1.0f);
  is(ScaleKind::rceil, 6.5f, 2.0f);
  is(ScaleKind::even, 6.9f, 1.0f);
  is(ScaleKind::even, 7.0f, 2.0f);
  is(ScaleKind::rceil, 0.0f, 0x1p-127f);
  is(ScaleKind::floor, 0x1p-149f, 0x1p-127f);
  is(ScaleKind::floor, kInfinity, quiet_nan());
  is(ScaleKind::float32, 9.0f, 1.5f);
  is(ScaleKind::float16, 6.0f * 0x1.002p0f, 1.0f);     // a tie
  is(ScaleKind::bfloat16, 6.0f * 0x1.03p0f, 0x1.04p0f);  // a tie
  is(ScaleKind::e4m3, 1e9f, 448.0f);
  is(ScaleKind::e4m3, 6.0f * 0x1p-10f, 0.0f);          // a tie with the smallest
  is(ScaleKind::float32, 0x1p-149f, 0.0f);
}

void check_ends() {
  check_same(tensor_scale_of(448.0f * 6.0f * 3.0f, 6.0f), 3.0f, "tensor scale", 0);
  check_same(tensor_scale_of(0.0f, 6.0f), 1.0f, "tensor scale of zeros", 0);
  check_same(tensor_scale_of(0x1p-149f, 6.0f), 1.0f, "tensor scale that underflows", 0);
  check_same(tensor_scale_of(kInfinity, 6.0f), quiet_nan(), "tensor scale of infinity", 0);
  check_same(tensor_scale_of(quiet_nan(), 6.0f), quiet_nan(), "tensor scale of NaN", 0);
  check_same(divisor_of(0.0f), kInfinity, "divisor", 0);
  check_same(divisor_of(0x1p-149f), 0x1p-149f, "divisor", 1);
  check_same(half_range(-1.0f, 3.0f), 2.0f, "half range", 0);
  check_same(half_range(-kMost, kMost), kMost, "half range", 1);
  check_same(half_range(-5.0f, -5.0f), 5.0f, "half range", 2);
  check_same(half_range(-0.0f, 0.0f), 0.0f, "half range", 3);
  check_same(half_range(quiet_nan(), quiet_nan()), quiet_nan(), "half range", 4);
  check_equal(std::isfinite(half_range(-kInfinity, 3.0f)), 0, "half range", 5);
  check_equal(std::isfinite(half_range(kInfinity, kInfinity)), 0, "half range", 6);

  const IntGrid integer{-8.0f, 7.0f, ZeroPoint::integer}, real{-8.0f, 7.0f, ZeroPoint::real};
  check_same(zero_point_of(0.0f, 1.0f, integer), -8.0f, "zero point", 0);
  check_same(zero_point_of(-3.5f, 1.0f, integer), -4.0f, "zero point", 1);   // a tie
  check_same(zero_point_of(-3.5f, 1.0f, real), -4.5f, "zero point", 2);
  check_same(zero_point_of(-99.0f, 1.0f, integer), 7.0f, "zero point", 3);   // held to the codes
  check_same(zero_point_of(99.0f, 1.0f, integer), -8.0f, "zero point", 4);
  check_same(zero_point_of(-99.0f, 1.0f, real), 91.0f, "zero point", 5);
  check_same(zero_point_of(0x1p-149f, divisor_of(0.0f), real), -8.0f, "zero point", 6);
  check_same(zero_point_of(quiet_nan(), 1.0f, integer), quiet_nan(), "zero point", 7);
  // Both ends are met, and so is zero.
  Draws draws(3);
  for (int i = 0; i < 2000; ++i) {
    const float a = draws.unit(), b = draws.unit(), low = a < b ? a : b, high = a < b ? b : a;
    const float scale = scale_of(half_range(low, high), Scaling{ScaleKind::float32, 7.5f});
    const float zero = zero_point_of(low, divisor_of(scale), real);
    check_equal(std::fabs(value_of(low / scale, zero, real, 0u) * scale - low) <= 1e-5f, 1, "lower end", i);
    check_equal(std::fabs(value_of(high / scale, zero, real, 0u) * scale - high) <= 1e-5f, 1, "upper end", i);
    const float from = low < 0.0f ? low : 0.0f, to = high > 0.0f ? high : 0.0f;
    const float wide = scale_of(half_range(from, to), Scaling{ScaleKind::float32, 7.5f});
    const float whole = zero_point_of(from, divisor_of(wide), integer);
    check_same(value_of(0.0f, whole, integer, 0u), 0.0f, "zero", i);
    check_equal(whole == std::nearbyint(whole) && -8.0f <= whole && whole <= 7.0f, 1, "an integer", i);
  }
}

}  // namespace

void test_scaling() {
  context = "scaling";
  check_kinds();
  check_ends();
}
