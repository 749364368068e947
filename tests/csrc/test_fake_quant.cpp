// The kernels of every instruction set against the scalar arithmetic, group by group and element by element.
#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>

#include "check.h"
#include "cpu/group.h"
#include "defined.h"
#include "formats.h"
#include "inputs.h"

namespace {

using namespace qscale;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <class T, class Element>
void check_own_scales(const Shape& shape, FakeQuant<Element> job, const Scales& scales, Draws& draws) {
  const int64_t count = shape.count(), groups = shape.groups();
  const Buffer<T> wanted = defined_values<T>(shape, job, scales);
  on_each_isa([&] {
    const auto& kernels = kernels_for<T>(job.element);
    Buffer<T> y = buffer_of<T>(count);
    Buffer<float> scale = buffer_of<float>(groups), zero = buffer_of<float>(groups);
    job.y = y.get();
    in_pieces(groups, draws, [&](int64_t first, int64_t last) { kernels.fake_quant(job, first, last); });
    check_all(y.get(), wanted.get(), count, "value");
    in_pieces(groups, draws, [&](int64_t a, int64_t b) { kernels.scales(job, a, b, scale.get(), zero.get()); });
    check_all(scale.get(), scales.own.data(), groups, "scale");
    check_all(zero.get(), scales.zero.data(), groups, "zero point");
    FakeQuant<Element> in_place = job;
    std::copy_n(static_cast<const T*>(job.x), count, y.get());
    in_place.x = y.get();
    in_pieces(groups, draws, [&](int64_t first, int64_t last) { kernels.fake_quant(in_place, first, last); });
    check_all(y.get(), wanted.get(), count, "value in place");
  });
}

template <class T, class Element>
void check_given_scales(const Shape& shape, FakeQuant<Element> job, Scales scales, Draws& draws) {
  const int64_t count = shape.count(), groups = shape.groups();
  Buffer<float> scale = buffer_of<float>(groups), zero = buffer_of<float>(groups);
  const float odd_scales[] = {0.0f, kInfinity, quiet_nan(), 0x1p-149f, 0x1p-120f, 3e38f, 0.7f, -0.3f};
  const float odd_zeros[] = {2.5f, -3.75f, 1e9f, kInfinity, quiet_nan(), 0.0f};
  const bool has_zeros = draws.below(3) > 0;
  for (int64_t g = 0; g < groups; ++g) {
    const size_t at = static_cast<size_t>(g);
    if (draws.below(4) == 0) scales.whole[at] = odd_scales[draws.below(8)];
    if (draws.below(4) == 0) scales.zero[at] = odd_zeros[draws.below(6)];
    scale[at] = scales.whole[at];
    zero[at] = scales.zero[at];
    scales.zero[at] = has_zeros ? given_zero(zero[at], job.element) : 0.0f;
  }
  job.scale = scale.get();
  job.zero_point = has_zeros ? zero.get() : nullptr;
  Buffer<T> grad = buffer_of<T>(count), grad_x = buffer_of<T>(count), y = buffer_of<T>(count);
  const bool odd = draws.below(8) == 0;
  for (int64_t i = 0; i < count; ++i) {
    from_float(odd && draws.below(32) == 0 ? kInfinity : draws.unit(), grad[static_cast<size_t>(i)]);
  }
  Buffer<uint8_t> codes = buffer_of<uint8_t>(count);
  Buffer<float> grad_scale = buffer_of<float>(groups), grad_zero = buffer_of<float>(groups);
  const Gradient asked{grad.get(),       grad_x.get(),
                       grad_scale.get(), grad_zero.get(),
                       static_cast<Gate>(draws.below(4)), static_cast<float>(draws.between(1, 8)) * 0.125f};
  const Buffer<T> values = defined_values<T>(shape, job, scales);
  const Buffer<uint8_t> wanted_codes = defined_codes<T>(shape, job, scales);
  const Buffer<uint8_t> wanted_bytes = packed_codes(shape, wanted_codes.get());
  const Gradients<T> gradients = defined_gradients<T>(shape, job, scales, asked);
  on_each_isa([&] {
    const auto& kernels = kernels_for<T>(job.element);
    job.y = y.get();
    in_pieces(groups, draws, [&](int64_t first, int64_t last) { kernels.fake_quant(job, first, last); });
    check_all(y.get(), values.get(), count, "value under a given scale");
    in_pieces(groups, draws, [&](int64_t first, int64_t last) { kernels.gradient(job, first, last, asked); });
    check_all(grad_x.get(), gradients.x.get(), count, "gradient of x");
    check_all(grad_scale.get(), gradients.scale.data(), groups, "gradient of a scale");
    check_all(grad_zero.get(), gradients.zero.data(), groups, "gradient of a zero point");
    job.y = codes.get();
    in_pieces(groups, draws, [&](int64_t first, int64_t last) { kernels.codes(job, first, last); });
    check_all(codes.get(), wanted_codes.get(), count, "code");
    const int64_t bytes = shape.rows * code_bytes(shape.layout.axis, true);
    FakeQuant<Element> pairs = job;
    pairs.packed = true;
    if (shape.layout.group % 2 == 0) {
      in_pieces(groups, draws, [&](int64_t first, int64_t last) { kernels.codes(pairs, first, last); });
    } else {  // groups have bytes in common: one after the other
      kernels.codes(pairs, 0, groups);
    }
    check_all(codes.get(), wanted_bytes.get(), bytes, "byte of two codes");
  });
}

template <class T, class Element>
void check_format(const Shape& shape, const Element& element, Scaling scaling, Draws& draws) {
  const bool with_level = scaling.kind == ScaleKind::e4m3 && draws.below(2) == 0, whole = draws.below(8) == 0;
  const bool finite = with_level || whole || draws.below(2) == 0;
  const Buffer<T> x = filled<T>(shape, element, scaling.largest, finite, draws);
  if (with_level) scaling.tensor_scale = tensor_scale_of(absmax_of(x.get(), shape.count()), scaling.largest);
  context = std::string(name_of(dtype_of(T{}))) + " " + context;
  FakeQuant<Element> job{x.get(), nullptr, shape.layout, element, scaling};
  float range[2] = {kInfinity, -kInfinity};
  for (int64_t i = 0; whole && i < shape.count(); ++i) {
    range[0] = std::min(range[0], to_float(x[static_cast<size_t>(i)]));
    range[1] = std::max(range[1], to_float(x[static_cast<size_t>(i)]));
  }
  job.range = whole ? range : nullptr;
  job.seed = uint64_t{draws.word()} << 32 | draws.word();
  const Scales scales = defined_scales<T>(shape, job);
  check_own_scales<T>(shape, job, scales, draws);
  job.range = nullptr;
  check_given_scales<T>(shape, job, scales, draws);
}

void check_shapes() {
  const int64_t tile = cpu::kTileElements;
  const Shape shapes[] = {
      rows_of(2, 1, 1),
      rows_of(2, 21, 1),  // of one element each, more than a tile takes
      rows_of(3, 15, 15),
      rows_of(3, 50, 16),  // ragged
      rows_of(3, 35, 5),   // groups that have bytes in common
      rows_of(2, 257, 16),
      rows_of(1, 600, 32),
      rows_of(1, 330, 9),
      rows_of(1, 131, 8),  // from here on also tiles full of groups of whole vectors
      rows_of(2, 97, 48),
      squares_of(2, 7, 21, 4, 4),  // ragged both ways
      squares_of(3, 2, 60, 2, 3),
      squares_of(1, 5, 70, 5, 32),
      squares_of(2, 3, 40, 2, 1),
      squares_of(1, 3, 261, 2, 16),
      // From here on long ones: fewer formats each.
      rows_of(1, 700, 300),
      rows_of(1, 1100, 64),
      squares_of(1, 2, 520, 2, 32),
      rows_of(1, 2100, 128),
      rows_of(1, 4200, 256),
      rows_of(1, 5 * (tile / 3), tile / 3),
      rows_of(1, 2 * tile + 500, tile + 77),
      squares_of(1, 3, 1400, 2, 1100),
  };
  Draws draws(4);
  int turn = 0;
  for (const Shape& shape : shapes) {
    const int64_t share = shape.count() < 700 ? 1 : shape.count() < 2000 ? 3 : 10;
    const auto with = [&](const auto& element, const Scaling& scaling) {
      if (++turn % share != 0) return;
      context = name_of(element) + " scale " + std::to_string(static_cast<int>(scaling.kind)) + ", " + shape.name();
      switch (draws.below(3)) {
        case 0:
          return check_format<float>(shape, element, scaling, draws);
        case 1:
          return check_format<BFloat16>(shape, element, scaling, draws);
        default:
          return check_format<Half>(shape, element, scaling, draws);
      }
    };
    for_ints(with);
    for_floats(with);
    for_codebooks(with);
  }
}

template <class T>
void check_dequantized() {
  context = std::string("dequantized ") + name_of(dtype_of(T{}));
  Draws draws(7);
  for (const Shape& shape : {rows_of(1, 1, 1), rows_of(3, 15, 4), rows_of(2, 97, 7), rows_of(4, 256, 32),
                             rows_of(2, 1000, 500), rows_of(1, 9000, 9000), squares_of(2, 7, 21, 4, 4),
                             squares_of(1, 3, 261, 2, 16)}) {
    for (const bool few : {true, false}) {
      const Coded coded(shape, few, draws);
      const float* zero = coded.has_zeros ? coded.zero.data() : nullptr;
      const Buffer<uint8_t> bytes = packed_codes(shape, coded.codes.data());
      const Buffer<T> wanted =
          defined_dequantized<T>(shape, coded.codes.data(), coded.table.data(), coded.scale.data(), zero);
      on_each_isa([&] {
        Buffer<T> y = buffer_of<T>(shape.count());
        const Dequantize job{few ? bytes.get() : coded.codes.data(), y.get(), shape.layout, coded.table.data(), few,
                             coded.scale.data(), zero};
        const auto run = cpu::kernels().dequantize[static_cast<int>(dtype_of(T{}))];
        in_pieces(shape.groups(), draws, [&](int64_t first, int64_t last) { run(job, first, last); });
        check_all(y.get(), wanted.get(), shape.count(), "value");
      });
    }
  }
}

// Any run of groups, alone: it gives the bits that a call for all gives, and writes nowhere else.
template <class T, class Element>
void check_runs(const Shape& shape, const Element& element, const Scaling& scaling) {
  Draws draws(5);
  const int64_t count = shape.count(), groups = shape.groups();
  const Buffer<T> x = filled<T>(shape, element, scaling.largest, false, draws);
  Buffer<T> y = buffer_of<T>(count);
  T untouched;
  from_float(-12345.0f, untouched);
  FakeQuant<Element> job{x.get(), y.get(), shape.layout, element, scaling};
  const Buffer<T> all = defined_values<T>(shape, job, defined_scales<T>(shape, job)), wanted = buffer_of<T>(count);
  for (int64_t first = 0; first < groups; ++first) {
    for (int64_t last = first; last <= std::min(groups, first + 21); last += 1 + draws.below(4)) {
      for (int64_t i = 0; i < count; ++i) {
        const int64_t g = shape.group_of(i);
        wanted[static_cast<size_t>(i)] = g >= first && g < last ? all[static_cast<size_t>(i)] : untouched;
      }
      on_each_isa([&] {
        std::fill_n(y.get(), count, untouched);
        kernels_for<T>(element).fake_quant(job, first, last);
        check_all(y.get(), wanted.get(), count, "run of groups");
      });
    }
  }
}

template <class T>
void check_runs_of() {
  context = "runs of groups";
  for (const Shape& shape : {rows_of(2, 95, 4), squares_of(2, 3, 37, 2, 2)}) {
    check_runs<T>(shape, IntGrid{-7.0f, 7.0f}, Scaling{ScaleKind::float32, 7.0f});
    check_runs<T>(shape, IntGrid{0.0f, 15.0f, ZeroPoint::integer, Rounding::stochastic},
                  Scaling{ScaleKind::float32, 7.5f});
    check_runs<T>(shape, kE2M1.grid(), Scaling{ScaleKind::floor, 6.0f, 1.0f, 2, 1});
    check_runs<T>(shape, codebook(0), Scaling{ScaleKind::float32, 1.0f});
  }
}

template <class T>
void check_ranges() {
  context = "range";
  Draws draws(6);
  for (int64_t n = 1; n < 150; ++n) {
    const Shape shape = rows_of(1, n, 10 < n ? 10 : n);
    for (const bool finite : {true, false}) {
      const Buffer<T> x = filled<T>(shape, codebook(0), 1.0f, finite, draws);
      float low = kInfinity, high = -kInfinity;
      for (int64_t i = 0; i < n; ++i) {
        const float v = to_float(x[static_cast<size_t>(i)]);
        low = v < low || is_nan(v) ? v : low;
        high = v > high || is_nan(v) ? v : high;
      }
      on_each_isa([&] {
        float found[2] = {-12345.0f, -12345.0f};
        cpu::kernels().range[static_cast<int>(dtype_of(T{}))](x.get(), n, found, found + 1);
        check_same(found[0] + 0.0f, low + 0.0f, "low", n);  // a zero has any sign
        check_same(found[1] + 0.0f, high + 0.0f, "high", n);
        const float absmax = cpu::kernels().absmax[static_cast<int>(dtype_of(T{}))](x.get(), n);
        check_same(absmax, std::max(std::fabs(low), std::fabs(high)), "absmax", n);
      });
    }
  }
}

}  // namespace

void test_fake_quant() {
  check_shapes();
  check_runs_of<float>();
  check_runs_of<BFloat16>();
  check_runs_of<Half>();
  check_dequantized<float>();
  check_dequantized<BFloat16>();
  check_dequantized<Half>();
  check_ranges<float>();
  check_ranges<BFloat16>();
  check_ranges<Half>();
}
