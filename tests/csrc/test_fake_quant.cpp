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

template <class T>
void expect(const T* x, const T* y, int64_t axis, int64_t rows, int64_t group, const IntGrid& grid) {
  for (int64_t start = 0; start < rows * axis;) {
    const int64_t left = axis - start % axis, n = left < group ? left : group;
    float absmax = 0.0f;
    for (int64_t i = start; i < start + n; ++i) {
      const float magnitude = std::fabs(to_float(x[i]));
      absmax = magnitude > absmax || std::isnan(magnitude) ? magnitude : absmax;
      if (std::isnan(absmax)) break;
    }
    for (int64_t i = start; i < start + n; ++i) {
      T wanted;
      from_float(int_round_trip(to_float(x[i]), int_scale(absmax, grid), grid), wanted);
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
  for (const IntGrid& grid : {IntGrid{-7.0f, 7.0f, 7.0f}, IntGrid{-128.0f, 127.0f, 128.0f}}) {
    const cpu::FakeQuantInt job{x.get(), y.get(), axis, group, grid};
    const int64_t groups = rows * ((axis + group - 1) / group), middle = groups / 3;
    const auto kernel = cpu::kernels().fake_quant_int[static_cast<int>(dtype)];
    kernel(job, 0, middle);
    kernel(job, middle, groups);
    expect(x.get(), y.get(), axis, rows, group, grid);
  }
}

void check_isa() {
  const int64_t axes[] = {1, 2, 15, 16, 17, 31, 33, 64, 100, 257};
  const int64_t groups[] = {1, 3, 8, 16, 32, 48, 128, 257};
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
