// The rules of other libraries: their arithmetic against values known from elsewhere or worked out in other ways, and
// the kernels of every instruction set against that arithmetic, element by element.
#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "check.h"
#include "cpu/dialect_kernels.h"
#include "defined.h"
#include "inputs.h"
#include "known_grid.h"

namespace {

using namespace qscale;
using namespace qscale::dialects;
using cpu::DialectJob;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kMost = std::numeric_limits<float>::max();

// In the order of the elements in steps.h.
constexpr KnownGrid kElements[] = {kE4M3, kE5M2, {2, 3}, {3, 2}, kE2M1, kFixed};

template <class T>
T narrow(float value) {
  T out;
  from_float(value, out);
  return out;
}

// Tables of logarithms that are exact, as far as they reach: Python asks torch for those in use.
struct Logarithms {
  int32_t floor[256], ceil[256];
  explicit Logarithms(int32_t off) {
    for (int field = 0; field < 256; ++field) {
      floor[field] = 0x7fffff - off;  // so many below the next power of two go up to it
      ceil[field] = off;              // and so many above one down
    }
    ceil[0] = 0x400000;  // 2**-127
    floor[255] = ceil[255] = 0;
  }
};
const Logarithms kExact(0), kRounded(3);

// Steps

template <class T>
void check_rounded_to(const char* name) {
  const auto check = [&](float value) {
    check_same(rounded_to(value, T{}), to_float(narrow<T>(value)), name, bits_of(value));
  };
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = to_float(T{static_cast<uint16_t>(bits)});
    check(value);
    const float next = to_float(T{static_cast<uint16_t>(bits ^ 1u)});
    const float middle = static_cast<float>((static_cast<double>(value) + next) / 2.0);
    for (const float beside : {middle, std::nextafter(middle, -kInfinity), std::nextafter(middle, kInfinity)}) {
      if (!std::isnan(beside)) check(beside);
    }
  }
  Draws draws(7);
  for (int i = 0; i < 20000; ++i) {
    const float value = float_of(draws.word());
    if (!std::isnan(value)) check(value);
  }
}

void check_elements() {
  Draws draws(8);
  for (int64_t index = 0; index < kElementCount; ++index) {
    const Element e = element(index);
    const KnownGrid& known = kElements[index];
    context = "element " + std::to_string(index);
    check_same(e.largest, static_cast<float>(known.largest()), "largest", index);
    check_equal(static_cast<uint32_t>(e.largest_exponent), static_cast<uint32_t>(std::ilogb(known.largest())),
                "emax", index);
    const auto is = [&](float value) {
      const float wanted = std::copysign(static_cast<float>(known.nearest(std::fabs(value))), value);
      check_same(nearest(value, e), wanted, "nearest", bits_of(value));
    };
    const auto both = [&](float value) {
      for (const float beside : {value, std::nextafter(value, 0.0f), std::nextafter(value, kInfinity)}) {
        is(beside);
        is(-beside);
      }
    };
    for (int64_t code = 0; code < known.count(); ++code) {
      both(static_cast<float>(known.magnitude(code)));
      if (code > 0) both(static_cast<float>((known.magnitude(code - 1) + known.magnitude(code)) / 2.0));
    }
    for (const float value : {kMost, kInfinity, quiet_nan(), 0x1p-149f, 0x1p-126f}) both(value);
    for (int i = 0; i < 5000; ++i) {
      const float value = float_of(draws.word());
      if (!std::isnan(value)) is(value);
    }
  }
  context = "dialects";
}

void check_exponents() {
  for (int exponent = -126; exponent < 128; ++exponent) {
    const float power = std::ldexp(1.0f, exponent), above = std::nextafter(power, kInfinity);
    const float last = std::nextafter(2.0f * power, 0.0f);
    const auto is = [&](float value, const int32_t* table, int wanted) {
      const int got = exponent_by_log2(value, table);
      check_equal(static_cast<uint32_t>(got), static_cast<uint32_t>(wanted), "log2", exponent);
    };
    is(power, kExact.floor, exponent);
    is(-power, kExact.ceil, exponent);
    is(above, kExact.floor, exponent);
    is(above, kExact.ceil, exponent + 1);
    is(above, kRounded.ceil, exponent);
    if (exponent == 127) continue;
    is(last, kExact.floor, exponent);
    is(last, kRounded.floor, exponent + 1);
    is(last, kExact.ceil, exponent + 1);
    const Factors scale = e8m0(exponent);
    check_same(scale.after, power, "scale", exponent);
    check_same(scale.before * scale.after, 1.0f, "inverse", exponent);
  }
  check_same(e8m0(-999).after, 0x1p-127f, "lowest scale", -999);
  check_same(e8m0(999).after, 0x1p127f, "highest scale", 999);
}

// modelopt's NF4 picks the first of the least distances, each rounded as torch rounds it: a bfloat16 table beside
// float16 gives float32.
template <class T>
int first_nearest(float quotient, const float* values) {
  const float q = to_float(narrow<T>(quotient));
  const auto distance = [&](int i) {
    const float exact = std::fabs(q - values[i]);
    return std::is_same_v<T, BFloat16> ? to_float(narrow<BFloat16>(exact)) : exact;
  };
  int best = 0;
  for (int i = 1; i < 16; ++i) best = distance(i) < distance(best) ? i : best;
  return best;
}

template <class T>
void check_modelopt_nf4() {
  const Codebook table = modelopt_nf4<T>();
  Draws draws(9);
  const auto is = [&](float quotient) {
    const float wanted = table.values[first_nearest<T>(quotient, table.values)];
    check_same(nearest(quotient, table), wanted, "nf4", bits_of(quotient));
  };
  for (int node = 1; node < 16; ++node) {
    const float border = table.tree[node];
    for (const float value : {border, std::nextafter(border, -2.0f), std::nextafter(border, 2.0f)}) is(value);
  }
  for (int i = 0; i < 5000; ++i) is(draws.unit());
  check_same(nearest(quiet_nan(), table), -1.0f, "NaN", 0);
}

// Groups whose values are worked out by hand

template <class Rule>
auto kernel_of(DType dtype) {
  return static_cast<const cpu::KernelsOf<Rule>&>(cpu::dialect_kernels()).by_dtype[static_cast<int>(dtype)];
}

template <class T, class Rule>
void is_as(const char* name, const Rule& rule, std::initializer_list<float> x, std::initializer_list<float> wanted) {
  const int64_t n = static_cast<int64_t>(x.size());
  Buffer<T> from = buffer_of<T>(n), to = buffer_of<T>(n), known = buffer_of<T>(n);
  std::transform(x.begin(), x.end(), from.get(), narrow<T>);
  std::transform(wanted.begin(), wanted.end(), known.get(), narrow<T>);
  context = std::string(name) + " " + name_of(dtype_of(T{}));
  on_each_isa([&] {
    kernel_of<Rule>(dtype_of(T{}))({from.get(), to.get(), n, n, rule}, 0, 1);
    check_all(to.get(), known.get(), n, "by hand");
  });
}

// Where all numbers fit, every dtype gives the same.
template <class Rule>
void is(const char* name, const Rule& rule, std::initializer_list<float> x, std::initializer_list<float> wanted) {
  is_as<float>(name, rule, x, wanted);
  is_as<BFloat16>(name, rule, x, wanted);
  is_as<Half>(name, rule, x, wanted);
}

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kTiny = 0x1p-24f;  // a subnormal of float16
const float kBelowQuarter = std::nextafter(0.25f, 0.0f);

void check_integers() {
  const TorchaoInt torchao{-8.0f, 7.0f, Mapping::symmetric};
  is("torchao int", torchao, {7.5f, -7.5f, -0.5f, 1.5f, -0.0f}, {7.0f, -8.0f, 0.0f, 2.0f, 0.0f});
  is("torchao int", torchao, {0.0f, -0.0f}, {0.0f, 0.0f});
  is("torchao int", torchao, {kInfinity, 1.0f}, {kNan, kNan});
  is("torchao int", torchao, {1.0f, kNan}, {kNan, kNan});
  is("torchao noclip", TorchaoInt{-8.0f, 7.0f, Mapping::noclip}, {3.5f, -8.0f, -0.25f}, {4.0f, -8.0f, 0.0f});
  const TorchaoInt asymmetric{-8.0f, 7.0f, Mapping::asymmetric};
  is("torchao asym", asymmetric, {-3.0f, 12.0f, 0.5f, 1.5f}, {-3.0f, 12.0f, 0.0f, 2.0f});
  is("torchao asym", asymmetric, {2.0f, 15.0f}, {2.0f, 15.0f});  // 0 is in the range
  // The scale is 0x1.ffcp0; one over it is 0x1.002p-1, but 0x1.004p-1 in float16.
  is_as<Half>("torchao int", torchao, {0x1.dfcp3f, 0x1.bfcp2f}, {0x1.bfcp3f, 0x1.7fcp2f});
  const TorchaoAffine affine{-8.0f, 7.0f, Mapping::symmetric};
  is_as<Half>("torchao affine", affine, {0x1.dfcp3f, 0x1.bfcp2f}, {0x1.bfcp3f, 0x1.ffcp2f});
  is("torchao affine", TorchaoAffine{-8.0f, 7.0f, Mapping::noclip}, {3.5f, -8.0f, -0.25f}, {4.0f, -8.0f, 0.0f});
  is("torchao affine", TorchaoAffine{-8.0f, 7.0f, Mapping::asymmetric}, {1.0f, kNan}, {kNan, kNan});

  // Clamped before it is rounded; a small negative value keeps its sign, a zero does not.
  const CompressedInt compressed{8.0f};
  is("compressed int", compressed, {7.5f, -7.5f, 0.5f, -0.5f, -0.0f}, {7.0f, -8.0f, 0.0f, -0.0f, 0.0f});
  is("compressed int", compressed, {-0.0f, 0.0f}, {0.0f, 0.0f});
  is("compressed int", compressed, {1.0f, kInfinity}, {kNan, kNan});
  // Moved before it is rounded: -4.5 and -3.5 both go to -4.
  is("compressed asym", CompressedAsymmetric{8.0f}, {-3.0f, 12.0f, 0.5f, 1.5f}, {-3.0f, 12.0f, 1.0f, 1.0f});
  is("compressed asym", CompressedAsymmetric{8.0f}, {-0.0f, 0.0f}, {0.0f, 0.0f});
  is("compressed asym", CompressedAsymmetric{8.0f}, {1.0f, kNan}, {kNan, kNan});

  is("modelopt int", ModeloptInt{7.0f}, {7.0f, 2.5f, -0.25f, -0.0f}, {7.0f, 2.0f, -0.0f, -0.0f});
  is("modelopt int", ModeloptInt{7.0f}, {kTiny, -kTiny}, {0.0f, -0.0f});  // counts as zero
  is("modelopt int", ModeloptInt{7.0f}, {1.0f, kInfinity}, {kNan, kNan});
}

void check_float8() {
  is("torchao float8", TorchaoFloat8{e4m3()}, {448.0f, 17.0f, -0.0f}, {448.0f, 16.0f, -0.0f});
  is("torchao float8", TorchaoFloat8{e4m3()}, {0.0f, 0.0f}, {kNan, kNan});
  is("torchao float8", TorchaoFloat8{element(1)}, {57344.0f, 9.0f}, {57344.0f, 8.0f});
  is("compressed float8", CompressedFloat8{e4m3()}, {448.0f, 17.0f, -0.0f}, {448.0f, 16.0f, 0.0f});
  is("compressed float8", CompressedFloat8{e4m3()}, {0.0f, -0.0f}, {0.0f, 0.0f});
  is("modelopt float8", ModeloptFloat8{}, {256.0f, -16.0f, -0.0f}, {256.0f, -16.0f, -0.0f});
  is("modelopt float8", ModeloptFloat8{}, {kTiny, -kTiny}, {0.0f, -0.0f});
  is("modelopt float8", ModeloptFloat8{}, {1.0f, kNan}, {kNan, kNan});
}

void check_mx() {
  const Element e = e2m1();
  is("torchao floor", TorchaoMx{e, 0, 0}, {7.0f, 5.0f, 2.5f, -0.25f}, {6.0f, 4.0f, 2.0f, -0.0f});
  is("torchao ceil", TorchaoMx{e, 0, 1}, {7.0f, 5.0f}, {8.0f, 4.0f});
  is("torchao ceil", TorchaoMx{e, 0, 1}, {4.0f, 5.0f / 4.0f}, {4.0f, 1.0f});
  is("torchao even", TorchaoMx{e, 1u << 21, 0}, {7.0f, 5.0f}, {8.0f, 4.0f});  // 7 has no room in one bit
  is("torchao even", TorchaoMx{e, 1u << 21, 0}, {6.5f, 5.0f}, {6.0f, 4.0f});
  is("torchao floor", TorchaoMx{e, 0, 0}, {1.0f, kNan}, {kNan, kNan});
  is("torchao floor", TorchaoMx{e, 0, 0}, {1.0f, kInfinity}, {0.0f, kInfinity});
  is_as<float>("torchao floor", TorchaoMx{e, 0, 0}, {0x1p-149f, -0x1p-149f}, {0.0f, -0.0f});
  is("torchao rceil", TorchaoMxRceil{e, kExact.ceil}, {7.0f, 5.0f}, {8.0f, 4.0f});
  is("torchao rceil", TorchaoMxRceil{e, kExact.ceil}, {6.0f, 5.0f}, {6.0f, 4.0f});
  is("torchao rceil", TorchaoMxRceil{e, kExact.ceil}, {1.0f, kNan}, {kNan, kNan});
  is_as<float>("torchao rceil", TorchaoMxRceil{e, kExact.ceil}, {0x1p-126f, -0x1p-126f}, {0.0f, -0.0f});

  is("compressed mx", compressed_mx(e), {7.0f, 5.0f, -0.0f}, {8.0f, 4.0f, 0.0f});
  is("compressed mx", compressed_mx(e4m3()), {448.0f, 0x1p-9f}, {448.0f, 0.0f});  // by the one bit of FP4
  is("compressed mx", compressed_mx(e), {0.0f, -0.0f}, {0.0f, 0.0f});
  is("compressed mx", compressed_mx(e), {1.0f, kInfinity}, {kNan, kNan});
  is("compressed mx", compressed_mx(e), {1.0f, kNan}, {kNan, kNan});
  is_as<Half>("compressed mx", compressed_mx(e), {65504.0f, 1.0f}, {kNan, kNan});  // up to 65536, which is infinite
  // Subnormal in float16: the scale is 1, but where rounding makes the largest a normal number.
  is_as<Half>("compressed mx", compressed_mx(e), {0x1.7f8p-15f, -0x1p-16f}, {0.0f, -0.0f});
  is_as<Half>("compressed mx", compressed_mx(e), {0x1.8p-15f, -0x1p-16f}, {0x1.8p-15f, -0x1p-16f});
  is_as<BFloat16>("compressed mx", compressed_mx(e), {0x1.8p-15f, -0x1p-16f}, {0x1.8p-15f, -0x1p-16f});

  is("ocp", OcpMx{e}, {7.0f, 5.0f, -0.25f}, {6.0f, 4.0f, -0.0f});
  is("ocp", OcpMx{element(5)}, {127.0f / 64.0f, 0x1p-7f, 0x3p-7f}, {127.0f / 64.0f, 0.0f, 0x2p-6f});
  is("ocp", OcpMx{e}, {1.0f, kInfinity}, {kNan, kNan});
  is_as<float>("ocp", OcpMx{e}, {0x1p-149f, 0.0f}, {0.0f, 0.0f});

  // A tie goes toward zero, and what is not above zero gets the sign.
  const ModeloptMxfp4 mxfp4{kExact.ceil};
  is("modelopt mxfp4", mxfp4, {6.0f, 1.75f, 3.5f, -0.75f, 0.0f}, {6.0f, 1.5f, 3.0f, -0.5f, -0.0f});
  is("modelopt mxfp4", mxfp4, {kInfinity, 1.0f}, {-0.0f, -0.0f});
  is("modelopt mxfp4", mxfp4, {-1.0f, kNan}, {-0.0f, -0.0f});
  is("modelopt mxfp8", ModeloptMxfp8{kExact.ceil}, {448.0f, 17.0f, -0.0f}, {448.0f, 16.0f, -0.0f});
  is("modelopt mxfp8", ModeloptMxfp8{kExact.ceil}, {450.0f, 17.0f}, {448.0f, 16.0f});
  is_as<float>("modelopt mxfp8", ModeloptMxfp8{kExact.ceil}, {kNan, -1.0f}, {kNan, -0x1.cp-119f});  // 448, lowest scale

  const auto even = microxcaling<Rounding::even>(e, kExact.floor);
  const auto away = microxcaling<Rounding::away>(e, kExact.floor);
  is("microxcaling even", even, {7.0f, 5.0f, 2.5f, -0.25f, -0.0f}, {6.0f, 4.0f, 2.0f, -0.0f, 0.0f});
  is("microxcaling away", away, {7.0f, 5.0f, 2.5f, -0.25f, -0.0f}, {6.0f, 6.0f, 3.0f, -0.5f, 0.0f});
  is("microxcaling", even, {1.0f, kInfinity}, {kNan, kNan});
  is_as<float>("microxcaling", even, {6.0f, kBelowQuarter}, {6.0f, 0.5f});  // the sum with a half is rounded
  is_as<float>("microxcaling", even, {0.0f, -0.0f}, {0.0f, 0.0f});
  is_as<Half>("microxcaling", even, {0.0f, -0.0f}, {kNan, kNan});  // the lowest scale is zero there
}

void check_nvfp4() {
  const std::initializer_list<float> x{6.0f, 2.5f, -0.25f, -0.0f};
  is("torchao nvfp4", TorchaoNvfp4{1.0f}, x, {6.0f, 2.0f, -0.0f, -0.0f});
  is("torchao nvfp4", torchao_nvfp4(1344.0f), x, {6.0f, 2.0f, -0.0f, -0.0f});
  is("torchao nvfp4", TorchaoNvfp4{1.0f}, {0x1p-8f, 0x1p-7f}, {0.0f, 0x1p-7f});  // the scale is a normal number
  is("torchao nvfp4", TorchaoNvfp4{1.0f}, {1.0f, kNan}, {kNan, kNan});
  is("torchao nvfp4", TorchaoNvfp4{1.0f}, {kInfinity, 100.0f}, {2688.0f, 0.0f});
  is("compressed nvfp4", CompressedNvfp4{448.0f}, x, {6.0f, 2.0f, -0.0f, 0.0f});
  is("compressed nvfp4", CompressedNvfp4{448.0f}, {0.0f, -0.0f}, {0.0f, 0.0f});
  is("compressed nvfp4", CompressedNvfp4{448.0f}, {1.0f, kNan}, {kNan, kNan});
  check_same(compressed_nvfp4<float>(6.0f).global_scale, 448.0f, "compressed nvfp4", 0);
  check_same(compressed_nvfp4<float>(0.0f).global_scale, 1.0f, "compressed nvfp4 of zeros", 0);
  check_same(compressed_nvfp4<Half>(0.03f).global_scale, 1.0f, "compressed nvfp4 past float16", 0);
  is("modelopt nvfp4", modelopt_nvfp4(2688.0f), x, {6.0f, 2.0f, 0.0f, 0.0f});
  is("modelopt nvfp4", modelopt_nvfp4(2688.0f), {0.0f, -0.0f}, {0.0f, 0.0f});
  is("modelopt nvfp4", modelopt_nvfp4(0.0f), {0.0f, -0.0f}, {kNan, kNan});
  is("te nvfp4", te_nvfp4(2688.0f), x, {6.0f, 2.0f, -0.0f, 0.0f});
  is("te nvfp4", te_nvfp4(2688.0f), {0.0f, -0.0f}, {0.0f, 0.0f});
  is("te nvfp4", te_nvfp4(0.0f), {0.0f, -0.0f}, {0.0f, 0.0f});
}

void check_codebooks() {
  const Codebook nf4 = codebook(0);
  const float step = nf4.values[8], border = nf4.tree[1];  // beside zero
  const float above = std::nextafter(border, 1.0f);
  is_as<float>("bitsandbytes", Bitsandbytes{nf4}, {-2.0f, 2.0f * border, 2.0f * above, -0.0f},
               {-2.0f, 0.0f, 2.0f * step, 0.0f});
  is_as<float>("bitsandbytes", BitsandbytesShort{nf4}, {-3.0f, 3.0f * step, 0.0f}, {-3.0f, 3.0f * step, 0.0f});
  is("bitsandbytes", Bitsandbytes{nf4}, {0.0f, -0.0f}, {0.0f, 0.0f});
  is("bitsandbytes", BitsandbytesShort{nf4}, {0.0f, -0.0f}, {0.0f, 0.0f});
  is("bitsandbytes", Bitsandbytes{nf4}, {1.0f, kNan}, {kNan, kNan});
  is("bitsandbytes", Bitsandbytes{nf4}, {1.0f, kInfinity}, {kNan, kInfinity});
  const ModeloptNf4 modelopt{modelopt_nf4<float>()};
  is("modelopt nf4", modelopt, {-2.0f, 1.125f, 0.0f, 2.0f}, {-2.0f, 1.125f, 0.0f, 2.0f});  // a table in bfloat16
  is("modelopt nf4", modelopt, {0.0f, 0.0f}, {-0.0f, -0.0f});
}

// Kernels against the arithmetic

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

float reduced(Ends ends, float) { return std::isnan(ends.low) ? ends.low : std::max(std::fabs(ends.low), ends.high); }
Ends reduced(Ends ends, Ends) { return ends; }

template <class T>
std::vector<Ends> ends_of(const Shape& shape, const T* x) {
  std::vector<Ends> ends(static_cast<size_t>(shape.groups()), Ends{0.0f, 0.0f});
  for (int64_t i = 0; i < shape.count(); ++i) {
    Ends& of_group = ends[static_cast<size_t>(shape.group_of(i))];
    const float v = to_float(x[i]);
    if (std::isnan(v) || std::isnan(of_group.low)) {
      of_group = {kNan, kNan};
    } else {
      of_group = {std::min(of_group.low, v), std::max(of_group.high, v)};
    }
  }
  return ends;
}

template <class T, class Rule>
void check_kernel(const Shape& shape, const Rule& rule, const T* x, const std::vector<Ends>& ends, Draws& draws) {
  const int64_t count = shape.count(), groups = shape.groups();
  const int64_t from = draws.between(0, groups), to = draws.between(from, groups);
  const T untouched = narrow<T>(-12345.0f);
  Buffer<T> wanted = buffer_of<T>(count), of_some = buffer_of<T>(count), y = buffer_of<T>(count);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t g = shape.group_of(i);
    const auto scale = scale_of<T>(reduced(ends[static_cast<size_t>(g)], typename Rule::Reduced{}), rule);
    wanted[static_cast<size_t>(i)] = narrow<T>(value_under<T>(to_float(x[i]), scale, rule));
    of_some[static_cast<size_t>(i)] = from <= g && g < to ? wanted[static_cast<size_t>(i)] : untouched;
  }
  on_each_isa([&] {
    const auto kernel = kernel_of<Rule>(dtype_of(T{}));
    const DialectJob<Rule> job{x, y.get(), shape.layout.axis, shape.layout.group, rule};
    std::fill_n(y.get(), count, untouched);
    kernel(job, from, to);
    check_all(y.get(), of_some.get(), count, "value of some groups");
    in_pieces(groups, draws, [&](int64_t first, int64_t last) { kernel(job, first, last); });
    check_all(y.get(), wanted.get(), count, "value");
    std::copy_n(x, count, y.get());
    const DialectJob<Rule> in_place{y.get(), y.get(), shape.layout.axis, shape.layout.group, rule};
    in_pieces(groups, draws, [&](int64_t first, int64_t last) { kernel(in_place, first, last); });
    check_all(y.get(), wanted.get(), count, "value in place");
  });
}

// Every rule, by the largest magnitude of the tensor, and the grid of its elements.
template <class T, class Use>
void for_rules(Use use) {
  const auto with = [&](const char* name, const auto& grid, const auto& rule) {
    use(name, grid, [&](float) { return rule; });
  };
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
    for (const Logarithms* logarithms : {&kExact, &kRounded}) {
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
  use("torchao nvfp4", fp4, torchao_nvfp4);
  use("compressed nvfp4", fp4, compressed_nvfp4<T>);
  use("modelopt nvfp4", fp4, modelopt_nvfp4);
  use("te nvfp4", fp4, te_nvfp4);
}

float largest_of(const Codebook&) { return 1.0f; }
float largest_of(const IntGrid& grid) { return grid.qmax + 0.5f; }
float largest_of(const FloatGrid& grid) { return grid.largest; }

template <class T>
void check_kernels() {
  const Shape shapes[] = {
      rows_of(2, 1, 1),
      rows_of(1, 40, 1),  // more groups than have their scales computed together
      rows_of(3, 15, 15),
      rows_of(3, 50, 16),  // ragged
      rows_of(2, 70, 32),
      rows_of(1, 19 * 16, 16),  // lengths that have loops of their own
      rows_of(2, 9 * 32, 32),
      rows_of(2, 99, 33),
      rows_of(3, 63, 31),
      rows_of(2, 40, 7),
      rows_of(1, 700, 350),
      rows_of(1, 9500, 4200),  // past what is read twice from the first cache
  };
  Draws draws(10);
  for (const Shape& shape : shapes) {
    int turn = 0;
    for_rules<T>([&](const char* name, const auto& grid, const auto& make) {
      if (shape.count() > 5000 && ++turn % 5 != 0) return;
      context = std::string(name) + ", " + shape.name() + " " + name_of(dtype_of(T{}));
      const Buffer<T> x = filled<T>(shape, grid, largest_of(grid), draws.below(2) == 0, draws);
      const std::vector<Ends> ends = ends_of(shape, x.get());
      // A kernel takes what it is told of the tensor.
      const float told[] = {reduced(ends.front(), 0.0f), reduced(ends.back(), 0.0f), 0x1p-140f, kMost, 0.0f, kNan};
      check_kernel(shape, make(told[draws.below(3) == 0 ? draws.below(6) : draws.below(2)]), x.get(), ends, draws);
    });
  }
}

template <class T>
void check_magnitudes() {
  context = std::string("magnitude ") + name_of(dtype_of(T{}));
  Draws draws(11);
  for (int64_t n = 0; n < 100; ++n) {
    const Shape shape = rows_of(1, n, 8);
    const Buffer<T> x = filled<T>(shape, codebook(0), 1.0f, n % 2 == 0, draws);
    float largest = 0.0f;
    for (int64_t i = 0; i < n; ++i) {
      const float v = std::fabs(to_float(x[static_cast<size_t>(i)]));
      largest = v > largest || std::isnan(v) ? v : largest;
    }
    on_each_isa([&] {
      const auto magnitude = cpu::dialect_kernels().magnitude[static_cast<int>(dtype_of(T{}))];
      check_same(float_of(magnitude(x.get(), n)), largest, "largest", n);
    });
  }
}

void check_nothing() {
  context = "no group";
  on_each_isa([] {
    const Buffer<float> nothing = buffer_of<float>(0);
    kernel_of<OcpMx>(DType::float32)({nothing.get(), nothing.get(), 32, 32, OcpMx{e2m1()}}, 0, 0);
  });
}

}  // namespace

void test_dialects() {
  context = "dialects";
  check_rounded_to<BFloat16>("bfloat16");
  check_rounded_to<Half>("float16");
  check_elements();
  check_exponents();
  check_modelopt_nf4<float>();
  check_modelopt_nf4<BFloat16>();
  check_modelopt_nf4<Half>();
  check_integers();
  check_float8();
  check_mx();
  check_nvfp4();
  check_codebooks();
  check_kernels<float>();
  check_kernels<BFloat16>();
  check_kernels<Half>();
  check_magnitudes<float>();
  check_magnitudes<BFloat16>();
  check_magnitudes<Half>();
  check_nothing();
}
