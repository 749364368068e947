// Rounding with error feedback, on every instruction set, against a plain loop in the same order of operations, in
// buffers of the exact size, so that AddressSanitizer sees an access past either end.
#include <memory>
#include <vector>

#include "check.h"
#include "cpu/feedback_job.h"
#include "numerics/scaling.h"

namespace {

using namespace qscale;

template <class T>
std::unique_ptr<T[]> made(int64_t count) {
  return std::unique_ptr<T[]>(new T[static_cast<size_t>(count)]);
}

uint32_t upper(double v) {
  uint64_t bits;
  memcpy(&bits, &v, sizeof bits);
  return static_cast<uint32_t>(bits >> 32) ^ static_cast<uint32_t>(bits);
}

template <class Element>
void check(const Element& element, cpu::FeedbackFn<Element> kernel, int64_t columns, int64_t rows, bool has_zero) {
  Draws draws(static_cast<uint64_t>(columns * 1000 + rows));
  const auto number = [&] { return static_cast<double>(static_cast<int32_t>(draws.word())) * 0x1p-31; };
  const int64_t count = columns * rows;
  auto x = made<double>(count), errors = made<double>(count), factor = made<double>(columns * columns);
  auto y = made<float>(count), scale = made<float>(count), zero = made<float>(count);
  for (int64_t i = 0; i < count; ++i) {
    x[i] = 4.0 * number();
    scale[i] = draws.word() % 50 == 0 ? 0.0f : static_cast<float>(0.4 + 0.3 * number());
    zero[i] = static_cast<float>(5.0 * number());
  }
  for (int64_t i = 0; i < columns * columns; ++i) factor[i] = i % (columns + 1) == 0 ? 2.0 + number() : number();
  const cpu::Feedback<Element> job{x.get(),     y.get(),  errors.get(), factor.get(), scale.get(),
                                   has_zero ? zero.get() : nullptr, columns, rows, element};
  const auto scratch = made<double>(columns * cpu::feedback_rows);
  kernel(job, 0, rows / 3, scratch.get());
  kernel(job, rows / 3, rows, scratch.get());
  for (int64_t r = 0; r < rows; ++r) {
    std::vector<double> e;
    for (int64_t i = 0; i < columns; ++i) {
      const int64_t at = i * rows + r;
      double v = x[at];
      for (int64_t j = 0; j < i; ++j) v -= e[static_cast<size_t>(j)] * factor[j * columns + i];
      const float point = has_zero ? zero_point_in_use(zero[at], element) : 0.0f;
      const float wanted = value_of(static_cast<float>(v) / divisor_of(scale[at]), point, element, 0u) * scale[at];
      e.push_back((v - static_cast<double>(wanted)) / factor[i * columns + i]);
      check_same(y[at], wanted, "rounded", at);
      check_equal(upper(errors[at]), upper(e.back()), "error", at);
    }
  }
}

void check_isa() {
  const auto& kernels = cpu::feedback_kernels();
  for (const int64_t columns : {1, 5, 32, 41}) {
    for (const int64_t rows : {1, 63, 64, 65, 200}) {
      for (const Rounding rounding : {Rounding::even, Rounding::away}) {
        check(IntGrid{-7, 7, ZeroPoint::none, rounding}, kernels.ints, columns, rows, false);
        check(IntGrid{0, 15, ZeroPoint::integer, rounding}, kernels.ints, columns, rows, true);
        check(IntGrid{0, 15, ZeroPoint::real, rounding}, kernels.ints, columns, rows, true);
        check(FloatGrid{1, 0, 6.0f, rounding}, kernels.floats, columns, rows, false);
      }
      check(codebook(0), kernels.codebooks, columns, rows, false);
    }
  }
}

}  // namespace

void test_feedback() {
  context = "feedback";
  on_each_isa(check_isa);
}
