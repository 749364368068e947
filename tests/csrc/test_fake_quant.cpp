// The kernels of every instruction set against the scalar arithmetic, in buffers of the exact size, so that
// AddressSanitizer sees a read or write past either end.
#include <cmath>
#include <initializer_list>
#include <memory>
#include <stdexcept>

#include "check.h"
#include "cpu/kernels.h"
#include "numerics/float16.h"

namespace {

using namespace qscale;
using cpu::DType;

uint32_t pattern(float v) { return bits_of(v); }
template <class T>
uint32_t pattern(T v) {
  return v.bits;
}

// The scalar arithmetic of each format: the scale of a group, and one element under it.
float scale_of(float absmax, const IntGrid& f) { return int_scale(absmax, f); }
float scale_of(float absmax, const cpu::ScaledFloat& f) {
  if (f.rule == ScaleRule::free) return free_scale(absmax, f.grid);
  return is_finite(absmax) ? power_of_two(mx_exponent(absmax, f.grid, f.rule)) : quiet_nan();
}
float scale_of(float absmax, const Nvfp4& f) { return nvfp4_scale(absmax, f); }
float scale_of(float absmax, const Codebook&) { return codebook_scale(absmax); }

float element(float x, float scale, const IntGrid& f) { return int_round_trip(x, scale, f); }
float element(float x, float scale, const cpu::ScaledFloat& f) { return float_round_trip(x, scale, f.grid); }
float element(float x, float scale, const Nvfp4& f) { return nvfp4_round_trip(x, scale, f); }
float element(float x, float scale, const Codebook& f) { return codebook_round_trip(x, scale, f); }

const auto* kernels_for(const IntGrid&) { return cpu::kernels().fake_quant_int; }
const auto* kernels_for(const cpu::ScaledFloat&) { return cpu::kernels().fake_quant_float; }
const auto* kernels_for(const Nvfp4&) { return cpu::kernels().fake_quant_nvfp4; }
const auto* kernels_for(const Codebook&) { return cpu::kernels().fake_quant_codebook; }

template <class T>
float largest_of(const T* x, int64_t n) {
  float largest = 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    const float magnitude = std::fabs(to_float(x[i]));
    if (std::isnan(magnitude)) return magnitude;
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

template <class T, class Format>
void check_format(DType dtype, const T* x, T* y, int64_t rows, int64_t axis, int64_t group, const Format& format) {
  const cpu::FakeQuant<Format> job{x, y, axis, group, format};
  const int64_t groups = rows * ((axis + group - 1) / group), middle = groups / 3;
  const auto kernel = kernels_for(format)[static_cast<int>(dtype)];
  kernel(job, 0, middle);
  kernel(job, middle, groups);
  for (int64_t start = 0; start < rows * axis;) {
    const int64_t left = axis - start % axis, n = left < group ? left : group;
    const float scale = scale_of(largest_of(x + start, n), format);
    for (int64_t i = start; i < start + n; ++i) {
      T wanted;
      from_float(element(to_float(x[i]), scale, format), wanted);
      const bool both_nan = std::isnan(to_float(wanted)) && std::isnan(to_float(y[i]));
      if (!both_nan) check_equal(pattern(y[i]), pattern(wanted), cpu::kernels().isa, i);
    }
    start += n;
  }
}

template <class T>
void check(DType dtype, int64_t rows, int64_t axis, int64_t group, int flavour) {
  static uint32_t state = 12345;
  const int64_t count = rows * axis;
  std::unique_ptr<T[]> x(new T[static_cast<size_t>(count)]), y(new T[static_cast<size_t>(count)]);
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    // Ordinary numbers, or any bit pattern: NaN, infinities and subnormal numbers among them.
    const float ordinary = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-30f;
    from_float(flavour == 0 ? ordinary : float_of(state), x[static_cast<size_t>(i)]);
  }
  const float largest = largest_of(x.get(), count);
  const float found = float_of(cpu::kernels().absmax[static_cast<int>(dtype)](x.get(), count));
  if (!std::isnan(largest)) check_equal(pattern(found), pattern(largest), "absmax", count);
  const auto run = [&](const auto& format) { check_format(dtype, x.get(), y.get(), rows, axis, group, format); };
  run(IntGrid{-7.0f, 7.0f, 7.0f});
  run(IntGrid{-128.0f, 127.0f, 128.0f});
  run(IntGrid{-7.0f, 7.0f, 7.0f, Rounding::away});
  const FloatGrid e2m1{1, 0, 6.0f}, e3m0{0, -2, 16.0f}, e8m0{0, -126, 0x1p127f}, fixed{7, 1, 127.0f / 64.0f};
  for (const FloatGrid& grid : {kE4M3, e2m1, e3m0, e8m0, FloatGrid{3, -6, 448.0f, Rounding::away}}) {
    run(cpu::ScaledFloat{grid, ScaleRule::free});
  }
  for (ScaleRule rule : {ScaleRule::floor, ScaleRule::ceil, ScaleRule::rceil, ScaleRule::even}) {
    for (const FloatGrid& grid : {kE4M3, e2m1, fixed}) run(cpu::ScaledFloat{grid, rule});
  }
  run(Nvfp4{1.0f});
  run(Nvfp4{nvfp4_tensor_scale(largest)});
  for (int64_t index = 0; index < kCodebookCount; ++index) run(codebook(index));
}

void check_isa() {
  const int64_t axes[] = {1, 2, 15, 16, 17, 33, 64, 257};
  const int64_t groups[] = {1, 3, 16, 32, 48, 257};
  for (int64_t axis : axes) {
    for (int64_t group : groups) {
      for (int flavour : {0, 1}) {
        check<float>(DType::float32, 3, axis, group < axis ? group : axis, flavour);
        check<BFloat16>(DType::bfloat16, 3, axis, group < axis ? group : axis, flavour);
        check<Half>(DType::float16, 3, axis, group < axis ? group : axis, flavour);
      }
    }
  }
}

}  // namespace

void test_fake_quant() {
  for (const char* isa : {"plain", "avx2", "avx512"}) {
    try {
      cpu::use_isa(isa);
    } catch (const std::invalid_argument& refused) {
      std::printf("skipped: %s\n", refused.what());
      continue;
    }
    std::printf("instruction set %s\n", cpu::kernels().isa);
    check_isa();
  }
}
