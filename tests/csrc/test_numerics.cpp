// Conversions of 16-bit floats: all 65536 values there and back, and both sides of every midpoint.
#include <cmath>
#include <initializer_list>
#include <limits>

#include "check.h"
#include "numerics/codebook.h"
#include "numerics/float16.h"
#include "numerics/float_quant.h"
#include "numerics/int_quant.h"

namespace {

using namespace qscale;

template <class T>
uint32_t narrow(float value) {
  T out;
  from_float(value, out);
  return out.bits;
}

// `infinity`: the pattern of +inf. Between neighbours the midpoint goes to the even one.
template <class T>
void check_conversions(uint16_t infinity, const char* name) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const T value{static_cast<uint16_t>(bits)};
    const bool is_nan = (bits & 0x7fffu) > infinity;
    const uint32_t back = narrow<T>(to_float(value));
    if (is_nan) {
      check_equal((back & 0x7fffu) > infinity, 1, name, bits);
    } else {
      check_equal(back, bits, name, bits);
    }
  }
  for (uint32_t bits = 0; bits < infinity; ++bits) {
    const T below{static_cast<uint16_t>(bits)}, above{static_cast<uint16_t>(bits + 1)};
    // Past the largest finite value, the next one of the same spacing stands for infinity.
    const bool last = bits + 1u == infinity;
    const T before{static_cast<uint16_t>(bits - 1)};
    const double low = to_float(below);
    const double high = last ? 2.0 * low - to_float(before) : to_float(above);
    const float middle = static_cast<float>((low + high) / 2.0);
    const uint32_t even = bits % 2 == 0 ? bits : bits + 1;
    const float infinite = std::numeric_limits<float>::infinity();
    for (uint32_t sign : {0u, 0x8000u}) {
      const float s = sign != 0 ? -1.0f : 1.0f;
      check_equal(narrow<T>(s * middle), sign | even, name, bits);
      check_equal(narrow<T>(s * std::nextafter(middle, 0.0f)), sign | bits, name, bits);
      check_equal(narrow<T>(s * std::nextafter(middle, infinite)), sign | (bits + 1), name, bits);
    }
  }
}

void check_number(float got, float wanted, const char* what) { check_equal(bits_of(got), bits_of(wanted), what, 0); }

// E2M1 at its ties, OCP MX 1.0: .25 .75 1.25 1.75 2.5 3.5 5.
void check_elements() {
  const float ties[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
  const float even[] = {0.0f, 1.0f, 1.0f, 2.0f, 2.0f, 4.0f, 4.0f};
  const float away[] = {0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
  for (int i = 0; i < 7; ++i) {
    check_number(round_to_grid(-ties[i], FloatGrid{1, 0, 6.0f, Rounding::even}), -even[i], "tie to even");
    check_number(round_to_grid(-ties[i], FloatGrid{1, 0, 6.0f, Rounding::away}), -away[i], "tie away");
  }
  check_number(round_to_grid(1e9f, kE4M3), 448.0f, "saturation");
  check_number(round_to_grid(-0.0f, kE4M3), -0.0f, "negative zero");
  check_equal(is_nan(round_to_grid(quiet_nan(), kE4M3)), 1, "NaN", 0);
  check_number(round_away(0x1.fffffep-2f), 0.0f, "just below a half");
  check_number(round_away(-2.5f), -3.0f, "half away");
}

void check_scales() {
  const FloatGrid e2m1{1, 0, 6.0f};
  const auto exponent = [&](float absmax, ScaleRule rule) {
    return static_cast<uint32_t>(mx_exponent(absmax, e2m1, rule) + 127);
  };
  check_equal(exponent(7.0f, ScaleRule::floor), 127, "floor", 0);
  check_equal(exponent(7.0f, ScaleRule::ceil), 128, "ceil", 0);
  check_equal(exponent(6.0f, ScaleRule::rceil), 127, "rceil", 0);
  check_equal(exponent(6.5f, ScaleRule::rceil), 128, "rceil", 1);
  check_equal(exponent(7.0f, ScaleRule::even), 128, "even", 0);
  check_equal(exponent(6.9f, ScaleRule::even), 127, "even", 1);
  check_equal(exponent(0.0f, ScaleRule::rceil), 0, "zero", 0);
  check_equal(exponent(0x1p-149f, ScaleRule::floor), 0, "subnormal", 0);
  check_number(power_of_two(-149), 0x1p-149f, "power of two");
  check_number(power_of_two(127), 0x1p127f, "power of two");
}

void check_codebooks() {
  for (int64_t index = 0; index < kCodebookCount; ++index) {
    const Codebook table = codebook(index);
    for (int i = 0; i < 15; ++i) {
      const float low = table.values[i], high = table.values[i + 1];
      const float middle = static_cast<float>((static_cast<double>(low) + high) / 2.0);
      check_number(std::fabs(codebook_round_trip(middle, 1.0f, table)), std::fabs(low), "codebook tie");
      const float above = codebook_round_trip(std::nextafter(middle, 2.0f), 1.0f, table);
      check_number(std::fabs(above), std::fabs(high), "codebook above a tie");
    }
  }
}

}  // namespace

void test_numerics() {
  check_elements();
  check_scales();
  check_codebooks();
  check_conversions<BFloat16>(0x7f80, "bfloat16");
  check_conversions<Half>(0x7c00, "half");
  check_equal(narrow<BFloat16>(float_of(0xffffffffu)) & 0x7fffu, 0x7fc0, "bfloat16 of the last NaN", 0);
  const IntGrid grid{-7.0f, 7.0f, 7.0f};
  check_equal(bits_of(int_scale(0x1p-149f, grid)), bits_of(1.0f), "scale that underflows", 0);
  check_equal(bits_of(int_round_trip(-2.5f, 1.0f, grid)), bits_of(-2.0f), "tie", 0);
  check_equal(bits_of(int_round_trip(-0.0f, 1.0f, grid)), bits_of(-0.0f), "negative zero", 0);
  check_equal(bits_of(int_round_trip(99.0f, 1.0f, grid)), bits_of(7.0f), "clamp", 0);
  check_equal(std::isnan(int_round_trip(std::nanf(""), 1.0f, grid)), 1, "NaN", 0);
}
