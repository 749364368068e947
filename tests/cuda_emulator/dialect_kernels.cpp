// The CUDA kernels of other libraries' rules, on the emulator, against the scalar arithmetic: a program that exits with
// 1 where a bit differs. Arguments: a seed for the data, and one for the order of threads.
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cuda/dialects.h"  // first: the steps are those of the device
#if defined(QSCALE_FEW_RULES)
#include "cuda/dialects_launch.cuh"
#endif

#include "../csrc/dialect_cases.h"
#include "emulator.h"

int failures = 0;
std::string context;

namespace {

// With QSCALE_FEW_RULES those alone, for each kind of kernel, and compiled here: a sanitizer's build is long.
#if defined(QSCALE_FEW_RULES)
template <class Rule>
constexpr bool kIsChecked = cuda::kIsOneOf<Rule, TorchaoInt, CompressedNvfp4, ModeloptNf4>;
#else
template <class Rule>
constexpr bool kIsChecked = true;
#endif

void check_done(cudaError_t done, const char* what) {
  if (done == cudaSuccess) return;
  std::printf("%s: %s: %s: %s\n", context.c_str(), what, cudaGetErrorString(done), emulator_report());
  ++failures;
}

// Aligned, `off` elements beyond that, and of exactly the right size.
template <class T>
class Memory {
 public:
  Memory(int64_t n, int64_t off) : data_(std::malloc(static_cast<size_t>(n + off) * sizeof(T))), off_(off) {}
  ~Memory() { std::free(data_); }
  Memory(const Memory&) = delete;
  T* get() { return static_cast<T*>(data_) + off_; }

 private:
  void* data_;
  int64_t off_;
};

template <class T, class Rule>
void check_kernel(const Shape& shape, const Rule& rule, bool follows, const T* from, Draws& draws) {
  const int64_t count = shape.count(), groups = shape.groups();
  const std::vector<dialects::Ends> ends = ends_of(shape, from);
  std::vector<decltype(scale_of<T>(typename Rule::Reduced{}, rule))> scales;
  for (const dialects::Ends& of_group : ends) {
    scales.push_back(scale_of<T>(reduced(of_group, typename Rule::Reduced{}), rule));
  }
  Buffer<T> wanted = buffer_of<T>(count);
  for (int64_t i = 0; i < count; ++i) {
    const auto& scale = scales[static_cast<size_t>(shape.group_of(i))];
    wanted[static_cast<size_t>(i)] = narrow<T>(value_under<T>(to_float(from[i]), scale, rule));
  }
  const int64_t off = draws.below(4) == 0 ? draws.below(16 / static_cast<int64_t>(sizeof(T))) : 0;
  const bool one_range = groups == 1 && draws.below(2) == 0, in_place = draws.below(2) == 0;
  context += std::string(off > 0 ? ", unaligned" : "") + (one_range ? ", whole" : "") + (in_place ? ", in place" : "");
  Memory<T> x(count, off), apart(count, off);
  std::memcpy(x.get(), from, static_cast<size_t>(count) * sizeof(T));
  T* y = in_place ? x.get() : apart.get();
  cuda::Job<Rule> job{};
  job.x = x.get();
  job.y = y;
  job.layout = shape.layout;
  job.x_stride = shape.layout.axis;
  job.tensor_level = follows;
  job.one_range = one_range;
  if (!follows) job.element = rule;
  std::vector<qscale::Ends> parts(cuda::kMostParts);
  if (follows || one_range) {
    check_done(cuda::find_range(dtype_of(T{}), job.x, shape.rows, shape.layout.axis, job.x_stride, parts.data(),
                                &job.parts.count, nullptr),
               "range");
    job.parts.each = parts.data();
  }
  check_done(cuda::Dialects<Rule>::values(dtype_of(T{}), job, shape.rows, nullptr), "values");
  check_all(y, wanted.get(), count, "value");
}

template <class T>
float magnitude_of(const T* x, int64_t count) {
  const std::vector<dialects::Ends> ends = ends_of(rows_of(1, count, count), x);
  return reduced(ends.front(), 0.0f);
}

template <class T>
void check_kernels(uint64_t seed) {
  const Shape shapes[] = {
      rows_of(2, 1, 1),
      rows_of(3, 15, 15),
      rows_of(7, 64, 32),
      rows_of(3, 50, 16),  // ragged
      rows_of(2, 257, 16),
      rows_of(40, 64, 16),
      rows_of(2, 70, 32),
      rows_of(4, 768, 128),
      rows_of(2, 99, 33),
      rows_of(1, 1000, 1000),  // whole packs, not a power of two
      rows_of(3, 512, 512),
      rows_of(1, 4096, 2048),
      rows_of(2, 4133, 4133),
      rows_of(1, 20000, 20000),  // past what a block holds, but for 16 bits
  };
  Draws draws(seed);
  int turn = static_cast<int>(seed);
  for (const Shape& shape : shapes) {
    const int share = shape.count() < 300 ? 2 : shape.count() < 4000 ? 5 : 11;
    for_rules<T>([&](const char* name, const auto& grid, const auto& make, bool follows) {
      if constexpr (kIsChecked<decltype(make(0.0f))>) {
        if (++turn % share != 0) return;
        context = std::string(name) + ", " + shape.name() + " " + name_of(dtype_of(T{}));
        const Buffer<T> x = filled<T>(shape, grid, largest_of(grid), draws.below(2) == 0, draws);
        check_kernel(shape, make(magnitude_of(x.get(), shape.count())), follows, x.get(), draws);
      }
    });
  }
}

}  // namespace

int main(int count, char** arguments) {
  const uint64_t seed = count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 4;
  emulator_seed(count > 2 ? std::strtoull(arguments[2], nullptr, 10) : seed);
  check_kernels<float>(seed);
  check_kernels<BFloat16>(seed + 1);
  check_kernels<Half>(seed + 2);
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
