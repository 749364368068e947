// Conversions of 16-bit floats: all 65536 values there and back, and both sides of every midpoint.
#include <cmath>
#include <initializer_list>
#include <limits>

#include "check.h"
#include "numerics/float16.h"
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

}  // namespace

void test_numerics() {
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
