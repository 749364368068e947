// The scalar arithmetic of csrc/numerics, against values known from elsewhere or worked out in double.
#include <cmath>
#include <initializer_list>
#include <limits>

#include "check.h"
#include "cpu/codes.h"
#include "cpu/random.h"
#include "known_grid.h"
#include "numerics/gradients.h"

namespace {

using namespace qscale;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kMost = std::numeric_limits<float>::max();

template <class T>
uint32_t narrow(float value) {
  T out;
  from_float(value, out);
  return out.bits;
}

// All 65536 values there and back, and both sides of every midpoint. `infinity`: the pattern of +inf. Between
// neighbours the midpoint goes to the even one.
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
    for (uint32_t sign : {0u, 0x8000u}) {
      const float s = sign != 0 ? -1.0f : 1.0f;
      check_equal(narrow<T>(s * middle), sign | even, name, bits);
      check_equal(narrow<T>(s * std::nextafter(middle, 0.0f)), sign | bits, name, bits);
      check_equal(narrow<T>(s * std::nextafter(middle, kInfinity)), sign | (bits + 1), name, bits);
    }
  }
}

void check_integers() {
  const auto is = [](float value, Rounding rounding, uint32_t random, float wanted) {
    check_same(round_to_integer(value, rounding, random), wanted, "round to integer", static_cast<int>(rounding));
    check_same(round_to_integer(-value, rounding, random), -wanted, "round to integer", static_cast<int>(rounding));
  };
  for (const Rounding rounding : {Rounding::even, Rounding::away, Rounding::stochastic}) {
    for (const float exact : {0.0f, 1.0f, 7.0f, 8388609.0f, 0x1p24f, 0x1.8p100f, kMost, kInfinity, quiet_nan()}) {
      is(exact, rounding, 0u, exact);
      is(exact, rounding, ~0u, exact);
    }
  }
  const float halves[] = {0.5f, 1.5f, 2.5f, 3.5f, 4194303.5f}, even[] = {0.0f, 2.0f, 2.0f, 4.0f, 4194304.0f};
  for (int i = 0; i < 5; ++i) {
    is(halves[i], Rounding::even, 0u, even[i]);
    is(halves[i], Rounding::away, 0u, halves[i] + 0.5f);
    for (const Rounding rounding : {Rounding::even, Rounding::away}) {
      is(std::nextafter(halves[i], 0.0f), rounding, 0u, halves[i] - 0.5f);
      is(std::nextafter(halves[i], kInfinity), rounding, 0u, halves[i] + 0.5f);
    }
    is(halves[i], Rounding::stochastic, 0x800000ffu, halves[i] - 0.5f);  // a half is not more than a half
    is(halves[i], Rounding::stochastic, 0x7fffffffu, halves[i] + 0.5f);
  }
  check_same(round_magnitude(0x1p-149f, Rounding::stochastic, 255u), 1.0f, "anything beyond, against 0", 0);
  check_same(round_magnitude(0x1p-149f, Rounding::stochastic, 256u), 0.0f, "next to nothing, against 2**-24", 0);
  check_same(unit_of(255u), 0.0f, "unit", 0);
  check_same(unit_of(0x80000000u), 0.5f, "unit", 1);
  check_same(unit_of(~0u), 1.0f - 0x1p-24f, "unit", 2);
  for (int exponent = -149; exponent < 128; ++exponent) {
    check_same(power_of_two(exponent), std::ldexp(1.0f, exponent), "power of two", exponent);
  }
}

// Numbers from one magnitude to the next, and where each rounding takes them.
void check_between(const KnownGrid& known, int64_t code, Draws& draws) {
  const double low = known.magnitude(code), high = known.magnitude(code + 1);
  const float below = static_cast<float>(low), above = static_cast<float>(high);
  const float middle = static_cast<float>((low + high) / 2.0);
  const auto is = [&](float value, Rounding rounding, uint32_t random, float wanted) {
    check_same(round_to_grid(value, known.grid(rounding), random), wanted, "grid", code);
    check_same(round_to_grid(-value, known.grid(rounding), random), -wanted, "grid, negative", code);
  };
  is(middle, Rounding::even, 0u, code % 2 == 0 ? below : above);
  is(middle, Rounding::away, 0u, above);
  for (const Rounding rounding : {Rounding::even, Rounding::away}) {
    is(below, rounding, 0u, below);
    is(std::nextafter(middle, 0.0f), rounding, 0u, below);
    is(std::nextafter(middle, kInfinity), rounding, 0u, above);
  }
  const float drawn = static_cast<float>(low + (high - low) * std::fabs(draws.unit()));
  for (const float value : {below, std::nextafter(below, kInfinity), middle, drawn, std::nextafter(above, 0.0f)}) {
    if (known.exponent_bits == 1 && known.mantissa_bits == 0 && value == 0x1p-149f) continue;  // has no half in float32
    const double way = (value - low) / (high - low);
    const uint32_t limit = static_cast<uint32_t>(way * 0x1p24);
    for (const uint32_t unit : {limit - 1u, limit, limit + 1u, draws.word() >> 8}) {
      const uint32_t random = unit << 8 | draws.word() >> 24;
      is(value, Rounding::stochastic, random, way > static_cast<double>(unit_of(random)) ? above : below);
    }
  }
}

void check_grid(const KnownGrid& known) {
  static Draws draws(1);
  context = "e" + std::to_string(known.exponent_bits) + "m" + std::to_string(known.mantissa_bits);
  const int64_t count = known.count(), step = count / 256 | 1;
  const FloatGrid grid = known.grid();
  const uint32_t sign = 1u << (known.exponent_bits + known.mantissa_bits);
  for (int64_t code = 0; code + 1 < count; code += code + step < count - 8 && code > 8 ? step : 1) {
    check_between(known, code, draws);
    check_equal(magnitude_code(static_cast<float>(known.magnitude(code)), grid), static_cast<uint32_t>(code), "code", 0);
  }
  check_equal(magnitude_code(grid.largest, grid), static_cast<uint32_t>(count - 1), "last code", count);
  check_equal(sign_code(grid), sign, "sign", count);
  for (const Rounding rounding : {Rounding::even, Rounding::away, Rounding::stochastic}) {
    const FloatGrid other = known.grid(rounding);
    for (const float value : {grid.largest, std::nextafter(grid.largest, kInfinity), kMost, kInfinity}) {
      for (const uint32_t random : {0u, ~0u}) {
        check_same(round_to_grid(value, other, random), grid.largest, "saturation", count);
        check_same(round_to_grid(-value, other, random), -grid.largest, "saturation", -count);
      }
    }
    check_same(round_to_grid(-0.0f, other), -0.0f, "negative zero", count);
    check_same(round_to_grid(quiet_nan(), other), quiet_nan(), "NaN", count);
    check_same(value_of(-0.0f, 0.0f, other, 0u), known.exponent_bits > 0 ? -0.0f : 0.0f, "value of -0", count);
  }
  if (sign > 128u) return;
  for (int64_t code = 0; code < count; ++code) {
    const float value = static_cast<float>(known.magnitude(code));
    const uint32_t wanted = static_cast<uint32_t>(code), twos = (0u - wanted) & 255u;
    check_same<uint8_t>(code_of(value, 0.0f, grid, 0u), static_cast<uint8_t>(wanted), "byte", code);
    check_same<uint8_t>(code_of(-value, 0.0f, grid, 0u),
                        static_cast<uint8_t>(known.exponent_bits > 0 ? wanted | sign : twos), "byte", -code);
  }
  check_same<uint8_t>(code_of(kInfinity, 0.0f, grid, 0u), static_cast<uint8_t>(count - 1), "byte of inf", count);
  check_same<uint8_t>(code_of(quiet_nan(), 0.0f, grid, 0u), 0u, "byte of NaN", count);
}

void check_grids() {
  // OCP MX 1.0: the values of E2M1 and its ties.
  const float values[] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
  const float ties[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
  const float even[] = {0.0f, 1.0f, 1.0f, 2.0f, 2.0f, 4.0f, 4.0f};
  for (int i = 0; i < 7; ++i) {
    check_same(static_cast<float>(kE2M1.magnitude(i)), values[i], "E2M1", i);
    check_same(round_to_grid(-ties[i], kE2M1.grid()), -even[i], "tie to even", i);
    check_same(round_to_grid(-ties[i], kE2M1.grid(Rounding::away)), -values[i + 1], "tie away", i);
  }
  check_same(kE2M1.grid().largest, 6.0f, "E2M1", 7);
  check_same(kE4M3.grid().largest, 448.0f, "E4M3", 0);
  check_same(kE5M2.grid().largest, 57344.0f, "E5M2", 0);
  check_same(kFixed.grid().largest, 127.0f / 64.0f, "fixed point", 0);
  check_equal(magnitude_code(448.0f, kE4M3.grid()), 0x7e, "E4M3 code", 448);
  check_equal(magnitude_code(0x1p-9f, kE4M3.grid()), 1, "E4M3 code", -9);
  check_equal(magnitude_code(1.0f, kE4M3.grid()), 0x38, "E4M3 code", 1);
  check_equal(has_negative_zero(kFixed.grid()), 0, "fixed point has one zero", 0);
  check_equal(has_negative_zero(KnownGrid{1, 0}.grid()), 1, "sign and magnitude", 0);
  check_equal(is_stochastic(kE2M1.grid(Rounding::stochastic)), 1, "stochastic", 0);
  check_equal(is_stochastic(kE2M1.grid(Rounding::away)), 0, "stochastic", 1);
  for (int exponent_bits = 0; exponent_bits <= 8; ++exponent_bits) {
    for (int mantissa_bits = exponent_bits == 0 ? 1 : 0; mantissa_bits <= 10; ++mantissa_bits) {
      check_grid({exponent_bits, mantissa_bits, exponent_bits == 8 ? 1 << mantissa_bits : 0});
    }
  }
  check_grid(kE4M3);
  check_grid(kE5M2);
  context = "numerics";
}

void check_int_elements() {
  const IntGrid symmetric{-7.0f, 7.0f}, integer{0.0f, 15.0f, ZeroPoint::integer}, real{0.0f, 15.0f, ZeroPoint::real};
  const IntGrid away{-8.0f, 7.0f, ZeroPoint::none, Rounding::away};
  const auto is = [](float quotient, float zero, const IntGrid& grid, float value, int code, uint32_t random = 0) {
    check_same(value_of(quotient, zero, grid, random), value, "integer", code);
    check_same(code_of(quotient, zero, grid, random), static_cast<uint8_t>(code), "code of integer", code);
  };
  is(-2.5f, 0.0f, symmetric, -2.0f, -2);
  is(-2.5f, 0.0f, away, -3.0f, -3);
  is(-0.0f, 0.0f, symmetric, 0.0f, 0);
  is(-0.4f, 0.0f, symmetric, 0.0f, 0);
  is(99.0f, 0.0f, symmetric, 7.0f, 7);
  is(-kInfinity, 0.0f, away, -8.0f, -8);
  is(quiet_nan(), 0.0f, symmetric, quiet_nan(), 0);
  is(-2.5f, 4.0f, integer, -2.0f, 2);      // rounded, then moved
  is(-2.5f, 4.25f, real, -2.25f, 2);       // moved, then rounded
  is(-99.0f, 4.25f, real, -4.25f, 0);
  is(99.0f, 4.0f, integer, 11.0f, 15);
  is(kInfinity, 4.0f, integer, 11.0f, 15);
  is(0.0f, quiet_nan(), integer, quiet_nan(), 0);
  const IntGrid random{-7.0f, 7.0f, ZeroPoint::none, Rounding::stochastic};
  is(-2.25f, 0.0f, random, -3.0f, -3, 0x3fffffffu);
  is(-2.25f, 0.0f, random, -2.0f, -2, 0x40000000u);
  check_same(zero_point_in_use(4.5f, symmetric), 0.0f, "no zero point", 0);
  check_same(zero_point_in_use(4.5f, integer), 4.0f, "integer zero point", 0);
  check_same(zero_point_in_use(4.5f, real), 4.5f, "real zero point", 0);
  check_equal(is_stochastic(random), 1, "stochastic", 0);
  check_equal(is_stochastic(away), 0, "stochastic", 1);
}

void check_codebooks() {
  static Draws draws(2);
  for (int64_t index = 0; index < kCodebookCount; ++index) {
    const Codebook table = codebook(index);
    check_same(table.values[0], -1.0f, "codebook", index);
    check_same(table.values[7], 0.0f, "codebook", index);
    check_same(table.values[15], 1.0f, "codebook", index);
    const auto is = [&](float quotient, int place) {
      check_equal(static_cast<uint32_t>(codebook_index(quotient, table)), static_cast<uint32_t>(place), "place", index);
      check_same(code_of(quotient, 0.0f, table, 0u), static_cast<uint8_t>(place), "code of codebook", index);
      check_same(value_of(quotient, 0.0f, table, 0u), table.values[place], "value of codebook", index);
    };
    for (int i = 0; i < 15; ++i) {
      const float low = table.values[i], high = table.values[i + 1];
      check_equal(low <= high, 1, "ascending", i);
      const float middle = static_cast<float>((static_cast<double>(low) + high) / 2.0);
      is(middle, i);  // a tie takes the lower one
      is(std::nextafter(middle, -2.0f), i);
      is(std::nextafter(middle, 2.0f), i + 1);
    }
    is(-kInfinity, 0);
    is(kInfinity, 15);
    for (int i = 0; i < 2000; ++i) {
      const float quotient = draws.unit() * 1.1f;
      double best = 9.0;
      for (const float value : table.values) best = std::fmin(best, std::fabs(static_cast<double>(quotient) - value));
      const double got = std::fabs(static_cast<double>(quotient) - value_of(quotient, 0.0f, table, 0u));
      check_equal(got <= best + 1e-8, 1, "nearest", i);  // midpoints are float32
    }
    check_same(value_of(quiet_nan(), 0.0f, table, 0u), quiet_nan(), "NaN", index);
    check_equal(is_stochastic(table), 0, "stochastic", index);
  }
}

// Known answers of Random123, tests/kat_vectors.
void check_philox() {
  struct Known {
    PhiloxState counter;
    PhiloxKey key;
    PhiloxState wanted;
  };
  const Known known[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xa4093822, 0x299f31d0},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  const auto word_of = [](PhiloxState s, int w) { return w == 0 ? s.a : w == 1 ? s.b : w == 2 ? s.c : s.d; };
  const auto ten_rounds = [](PhiloxState s, PhiloxKey key) {
    for (int round = 0; round < 10; ++round, key = philox_next(key)) s = philox_round(s, key);
    return s;
  };
  for (const Known& one : known) {
    const PhiloxState s = ten_rounds(one.counter, one.key);
    for (int w = 0; w < 4; ++w) check_equal(word_of(s, w), word_of(one.wanted, w), "Philox", w);
  }
  const PhiloxState far = ten_rounds({0xfffffffeu, 0x123u, 0u, 0u}, {0x89abcdefu, 0x01234567u});
  for (int w = 0; w < 4; ++w) {
    check_equal(random_word(static_cast<uint64_t>(w), 0), word_of(known[0].wanted, w), "word", w);
    const uint64_t index = 0x123fffffffeu * uint64_t{4} + static_cast<uint64_t>(w);
    check_equal(random_word(index, 0x0123456789abcdefu), word_of(far, w), "far word", w);
  }
  for (const uint64_t index : {uint64_t{0}, uint64_t{5}, uint64_t{1023}, (uint64_t{1} << 34) - 7}) {
    for (const int64_t n : {int64_t{1}, int64_t{3}, int64_t{64}, int64_t{65}, cpu::kChunk}) {
      cpu::RandomChunk chunk;
      cpu::draw(index, n, 77, chunk);
      for (int64_t i = 0; i < n; ++i) {
        check_equal(chunk.first[i], random_word(index + static_cast<uint64_t>(i), 77), "drawn", i);
      }
    }
  }
}

void check_slopes() {
  const IntGrid ints{-7.0f, 7.0f}, shifted{0.0f, 15.0f, ZeroPoint::integer};
  // `passes`: at gates open, clipped, lsq, and trust of 1.
  const auto is = [](float x, float scale, float zero, const auto& element, const char* passes, float of_scale,
                     float of_zero, Gate gate_of_sums) {
    for (int32_t g = 0; g < 4; ++g) {
      const Slopes found = slopes_of(x, x / scale, scale, zero, element, 0u, static_cast<Gate>(g), 1.0f);
      check_equal(found.passes, passes[g] == '1', "gate", g);
      if (static_cast<Gate>(g) != gate_of_sums) continue;
      check_same(found.of_scale, of_scale, "slope of the scale", g);
      check_same(found.of_zero, of_zero, "slope of the zero point", g);
    }
  };
  is(6.5f, 2.0f, 0.0f, ints, "1111", 3.0f - 3.25f, 0.0f, Gate::open);
  is(14.75f, 2.0f, 0.0f, ints, "1101", 7.0f - 7.375f, 0.0f, Gate::clipped);  // 7.375 rounds into the range
  is(14.75f, 2.0f, 0.0f, ints, "1101", 7.0f, -2.0f, Gate::lsq);
  is(-16.0f, 2.0f, 0.0f, ints, "1001", -7.0f, -2.0f, Gate::trust);           // 2 away: one scale
  is(-16.25f, 2.0f, 0.0f, ints, "1000", -7.0f, -2.0f, Gate::open);
  is(22.0f, 2.0f, 4.0f, shifted, "1111", 0.0f, 0.0f, Gate::lsq);             // code 15, the last
  is(23.0f, 2.0f, 4.0f, shifted, "1001", 11.0f, -2.0f, Gate::lsq);           // 11.5 + 4; a tie goes up to 16
  is(-8.5f, 2.0f, 4.0f, shifted, "1101", 0.25f, 0.0f, Gate::clipped);        // -4.25 rounds to code 0
  is(6.5f, 1.0f, 0.0f, kE2M1.grid(), "1101", -0.5f, 0.0f, Gate::clipped);    // rounds to 6
  is(6.5f, 1.0f, 0.0f, kE2M1.grid(), "1101", 6.0f, -1.0f, Gate::lsq);
  is(-7.0f, 1.0f, 0.0f, kE2M1.grid(), "1001", -6.0f, -1.0f, Gate::clipped);  // a tie goes to 8
  is(5.5f, 1.0f, 0.0f, kE2M1.grid(), "1111", 0.5f, 0.0f, Gate::clipped);
  is(-1.5f, 1.0f, 0.0f, codebook(0), "1001", -1.0f, -1.0f, Gate::open);
  is(-1.0f, 1.0f, 0.0f, codebook(0), "1111", 0.0f, 0.0f, Gate::open);
  is(quiet_nan(), 1.0f, 0.0f, ints, "1000", quiet_nan(), -1.0f, Gate::open);
}

}  // namespace

void test_numerics() {
  context = "numerics";
  check_conversions<BFloat16>(0x7f80, "bfloat16");
  check_conversions<Half>(0x7c00, "half");
  check_equal(narrow<BFloat16>(float_of(0xffffffffu)) & 0x7fffu, 0x7fc0, "bfloat16 of the last NaN", 0);
  check_integers();
  check_grids();
  check_int_elements();
  check_codebooks();
  check_philox();
  check_slopes();
}
