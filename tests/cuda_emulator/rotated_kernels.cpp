// The CUDA kernels that rotate and quantize in one pass, on the emulator, against a plain loop of both: a program that
// exits with 1 where a bit differs. Arguments: a seed for the data, and one for the order of threads.
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "../csrc/defined.h"
#include "../csrc/defined_hadamard.h"
#include "../csrc/formats.h"
#include "cuda/rotated.h"
#include "emulator.h"

int failures = 0;
std::string context;

namespace {

int served = 0;

struct Case {
  int64_t block, axis, rows, group;
};

template <class T>
struct Aligned {
  explicit Aligned(int64_t n) : data(static_cast<T*>(std::malloc(static_cast<size_t>(n) * sizeof(T)))) {}
  ~Aligned() { std::free(data); }
  Aligned(const Aligned&) = delete;
  T* data;
};

template <class T, class Element>
void check(const Case& c, const Element& element, const Scaling& scaling, Draws& draws) {
  const int64_t count = c.axis * c.rows, n = c.block;
  const DType dtype = dtype_of(T{});
  const bool has_signs = draws.below(2) == 0;
  Aligned<T> x(count), y(count);
  // Groups of nothing, of little and of much: the scales of some are out of the ordinary.
  const float sizes[] = {1.0f, 0.0f, 0x1p-130f, 1e4f, 1.0f, 3e38f, quiet_nan(), 1.0f};
  const int64_t block_of_one_size = n > c.group ? n : c.group;
  for (int64_t i = 0; i < count; ++i) {
    from_float(draws.unit() * sizes[i / block_of_one_size % 8], x.data[i]);
  }
  const int64_t length = draws.below(2) == 0 ? n : c.axis, period = cuda::flips_of_signs(dtype, length);
  std::vector<float> signs(static_cast<size_t>(length));
  for (float& sign : signs) sign = draws.below(2) == 0 ? 1.0f : -1.0f;
  Aligned<T> flips(period);
  cuda::find_flips(dtype, signs.data(), length, flips.data, nullptr);
  const bool in_place = draws.below(3) == 0;
  const std::vector<T> given(x.data, x.data + count);
  T* to = in_place ? x.data : y.data;
  const float factor = static_cast<float>(1.0 / std::sqrt(static_cast<double>(n)));
  const cuda::Hadamard rotation{x.data, to, 1, n, nullptr, factor, has_signs ? flips.data : nullptr, period, false,
                                count / n, c.axis, c.axis};
  const Shape shape{Layout{c.axis, c.group}, c.rows};
  cuda::Job<Element> job{};
  job.layout = shape.layout;
  job.element = element;
  job.scaling = scaling;
  job.y = to;
  job.x_stride = c.axis;
  if (!cuda::Rotated<Element>::serves(dtype, rotation, job)) return;
  ++served;
  const cudaError_t done = cuda::Rotated<Element>::values(dtype, rotation, job, nullptr);
  if (done != cudaSuccess) {
    std::printf("%s: %s: %s\n", context.c_str(), cudaGetErrorString(done), emulator_report());
    ++failures;
  }

  Buffer<T> rotated = buffer_of<T>(count);
  for (int64_t start = 0; start < count; start += n) {
    std::vector<float> v(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      const float sign = has_signs ? signs[static_cast<size_t>((start + i) % length)] : 1.0f;
      v[static_cast<size_t>(i)] = to_float(given[static_cast<size_t>(start + i)]) * sign;
    }
    v = defined_hadamard(v, 1, n, nullptr, factor);
    for (int64_t i = 0; i < n; ++i) from_float(v[static_cast<size_t>(i)], rotated[static_cast<size_t>(start + i)]);
  }
  job.x = rotated.get();
  const Buffer<T> wanted = defined_values<T>(shape, job, defined_scales<T>(shape, job));
  for (int64_t i = 0; i < count; ++i) check_same(to[i], wanted[static_cast<size_t>(i)], "value", i);
}

}  // namespace

int main(int count, char** arguments) {
  const uint64_t seed = count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 1;
  Draws draws(seed);
  emulator_seed(count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 1);
  const Case cases[] = {{8, 40, 7, 8},      {16, 96, 5, 32},     {128, 128, 37, 16},   {64, 1024, 3, 1024},
                        {512, 512, 9, 512}, {1024, 1024, 3, 64}, {1024, 2048, 2, 512}, {2048, 2048, 3, 2048},
                        {2048, 4096, 1, 16}, {4096, 4096, 2, 4096}, {4096, 4096, 1, 128}, {8192, 8192, 1, 8192},
                        {8192, 8192, 1, 4}};
  int turn = static_cast<int>(seed);
  for (const Case& c : cases) {
    const int share = c.block < 2048 ? 5 : 11;
    const auto with = [&](const auto& element, const Scaling& scaling) {
      if (++turn % share != 0) return;
      context = name_of(element) + " scale " + std::to_string(static_cast<int>(scaling.kind)) + ", blocks of " +
                std::to_string(c.block) + ", groups of " + std::to_string(c.group);
      check<float>(c, element, scaling, draws);
      check<BFloat16>(c, element, scaling, draws);
      check<Half>(c, element, scaling, draws);
    };
    for_ints(with);
#if !defined(QSCALE_INTS_ALONE)
    for_floats(with);
    for_codebooks(with);
#endif
  }
  std::printf("%d served\n%d failures\n", served, failures);
  return failures > 0 ? 1 : 0;
}
