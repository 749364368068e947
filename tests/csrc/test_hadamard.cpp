// Hadamard kernels of every instruction set against a plain loop in the same order of operations, in buffers of the
// exact size, so that AddressSanitizer sees an access past either end.
#include <cmath>
#include <initializer_list>
#include <memory>
#include <new>
#include <vector>

#include "check.h"
#include "cpu/hadamard_job.h"
#include "defined_hadamard.h"

namespace {

using namespace qscale;

template <class T, class Word>
void check(int dtype, int64_t base, int64_t inner, int64_t blocks, bool flipped, bool after) {
  static uint32_t state = 98765;
  const int64_t n = base * inner, count = n * blocks;
  std::unique_ptr<T[]> x(new T[static_cast<size_t>(count)]), y(new T[static_cast<size_t>(count)]);
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    const float value = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
    from_float(state % 977 == 0 ? INFINITY : value, x[static_cast<size_t>(i)]);
  }
  std::vector<float> matrix(static_cast<size_t>(base * base));
  for (float& entry : matrix) {  // any signs will do: the kernel knows no Hadamard matrix
    state = state * 1664525u + 1013904223u;
    entry = (state & 0x8000u) != 0 ? 1.0f : -1.0f;
  }
  std::vector<Word> flips(static_cast<size_t>(n));
  for (Word& flip : flips) {
    state = state * 1664525u + 1013904223u;
    flip = flipped && (state & 0x8000u) != 0 ? static_cast<Word>(Word{1} << (8 * sizeof(Word) - 1)) : Word{0};
  }
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(n)));
  const cpu::Hadamard job{x.get(), y.get(), base, inner, matrix.data(), scale, flipped ? flips.data() : nullptr, n,
                          after, blocks};
  constexpr std::align_val_t alignment{64};
  struct Free {
    void operator()(float* p) const { ::operator delete[](p, alignment); }
  };
  std::unique_ptr<float[], Free> scratch(new (alignment) float[static_cast<size_t>(cpu::hadamard_scratch(job))]);
  const auto kernel = cpu::hadamard_kernel(dtype);
  kernel(job, 0, blocks / 3, scratch.get());
  kernel(job, blocks / 3, blocks, scratch.get());

  for (int64_t block = 0; block < blocks; ++block) {
    std::vector<float> v(static_cast<size_t>(n));
    const auto sign = [&](int64_t i) { return flips[static_cast<size_t>(i)] != 0 ? -1.0f : 1.0f; };
    for (int64_t i = 0; i < n; ++i) {
      v[static_cast<size_t>(i)] = to_float(x[static_cast<size_t>(block * n + i)]) * (after ? 1.0f : sign(i));
    }
    v = defined_hadamard(v, base, inner, matrix.data(), scale);
    for (int64_t i = 0; i < n; ++i) {
      T wanted;
      from_float(v[static_cast<size_t>(i)] * (after ? sign(i) : 1.0f), wanted);
      const T got = y[static_cast<size_t>(block * n + i)];
      check_same(got, wanted, "transform", block * n + i);
    }
  }
}

void check_isa() {
  struct Shape {
    int64_t base, inner, blocks;
  };
  const Shape shapes[] = {{1, 1, 7},   {1, 2, 33},  {1, 4, 9},   {1, 8, 5},    {1, 16, 7},  {1, 32, 5},   {1, 64, 4},
                          {1, 128, 3}, {1, 256, 3}, {1, 512, 3}, {1, 4096, 2}, {1, 8192, 2}, {12, 1, 70}, {12, 2, 5},
                          {20, 16, 3}, {12, 32, 4}, {28, 64, 3}, {12, 512, 2}, {36, 256, 1}};
  for (const Shape& s : shapes) {
    for (const bool flipped : {false, true}) {
      for (const bool after : {false, true}) {
        check<float, uint32_t>(0, s.base, s.inner, s.blocks, flipped, after);
        check<BFloat16, uint16_t>(1, s.base, s.inner, s.blocks, flipped, after);
        check<Half, uint16_t>(2, s.base, s.inner, s.blocks, flipped, after);
      }
    }
  }
}

}  // namespace

void test_hadamard() {
  context = "hadamard";
  on_each_isa(check_isa);
}
