// The CUDA kernels of fake quantization, on the emulator, against the scalar arithmetic: a program that exits with 1
// where a bit differs. Arguments: a seed for the data, and one for the order of threads.
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../csrc/formats.h"
#include "cuda/dequantize.h"
#include "cuda/launch.h"
#include "emulator.h"

int failures = 0;
std::string context;

namespace {

using cuda::Launches;

void check_done(cudaError_t done, const char* what) {
  if (done == cudaSuccess) return;
  std::printf("%s: %s: %s: %s\n", context.c_str(), what, cudaGetErrorString(done), emulator_report());
  ++failures;
}

// Aligned as torch aligns, `off` elements beyond that, and of exactly the right size.
template <class T>
class Tensor {
 public:
  explicit Tensor(int64_t n, int64_t off = 0)
      : bytes_(static_cast<size_t>(n + off) * sizeof(T)), data_(std::aligned_alloc(64, (bytes_ + 63) / 64 * 64)), off_(off) {
    std::memset(data_, 0x5a, bytes_);
  }
  ~Tensor() { std::free(data_); }
  Tensor(const Tensor&) = delete;
  T* get() { return static_cast<T*>(data_) + off_; }

 private:
  size_t bytes_;
  void* data_;
  int64_t off_;
};

// What of a tensor as a whole a job needs.
template <class T, class Element>
void find_parts(cuda::Job<Element>& job, const Shape& shape, std::vector<Ends>& parts) {
  parts.assign(cuda::kMostParts, Ends{});
  check_done(cuda::find_range(dtype_of(T{}), job.x, shape.rows, shape.layout.axis, job.x_stride, parts.data(),
                              &job.parts.count, nullptr),
             "range");
  job.parts.each = parts.data();
}

template <class T, class Element>
void check_own(const Shape& shape, cuda::Job<Element> job, const Scales& scales, int64_t off) {
  const int64_t count = shape.count(), groups = shape.groups();
  const DType dtype = dtype_of(T{});
  const Buffer<T> wanted = defined_values<T>(shape, job, scales);
  Tensor<T> y(count, off);
  job.y = y.get();
  check_done(Launches<Element>::values(dtype, job, shape.rows, nullptr), "values");
  check_all(y.get(), wanted.get(), count, "value");
  std::vector<float> scale(static_cast<size_t>(groups)), zero(static_cast<size_t>(groups));
  float level = -1.0f;
  check_done(Launches<Element>::scales(dtype, job, shape.rows, cuda::Outputs{scale.data(), zero.data(), &level}, nullptr),
             "scales");
  check_all(scale.data(), scales.own.data(), groups, "scale");
  check_all(zero.data(), scales.zero.data(), groups, "zero point");
  if (job.tensor_level) check_same(level, job.scaling.tensor_scale, "level", 0);
  Tensor<T> both(count, off);
  std::memcpy(both.get(), job.x, static_cast<size_t>(count) * sizeof(T));
  job.x = job.y = both.get();
  check_done(Launches<Element>::values(dtype, job, shape.rows, nullptr), "values in place");
  check_all(both.get(), wanted.get(), count, "value in place");
}

template <class T, class Element>
void check_given(const Shape& shape, cuda::Job<Element> job, Scales scales, Draws& draws, int64_t off) {
  const int64_t count = shape.count(), groups = shape.groups();
  const DType dtype = dtype_of(T{});
  const float odd_scales[] = {0.0f, INFINITY, quiet_nan(), 0x1p-149f, 0x1p-120f, 3e38f, 0.7f, -0.3f};
  const bool has_zeros = draws.below(3) > 0;
  std::vector<float> zero = scales.zero;
  for (size_t g = 0; g < static_cast<size_t>(groups); ++g) {
    if (draws.below(4) == 0) scales.whole[g] = odd_scales[draws.below(8)];
    if (draws.below(4) == 0) zero[g] = draws.unit() * 8.0f;
    scales.zero[g] = has_zeros ? given_zero(zero[g], job.element) : 0.0f;
  }
  const std::vector<float> scale = scales.whole;
  job.scale = scale.data();
  job.zero_point = has_zeros ? zero.data() : nullptr;
  job.parts = cuda::Parts{};
  job.tensor_level = job.one_range = false;
  Tensor<T> y(count, off), grad(count, off), grad_x(count, off);
  job.y = y.get();
  check_done(Launches<Element>::values(dtype, job, shape.rows, nullptr), "values under given scales");
  check_all(y.get(), defined_values<T>(shape, job, scales).get(), count, "value under a given scale");
  Tensor<uint8_t> codes(count, off);
  job.y = codes.get();
  check_done(Launches<Element>::codes(dtype, job, shape.rows, nullptr), "codes");
  const Buffer<uint8_t> wanted_codes = defined_codes<T>(shape, job, scales);
  check_all(codes.get(), wanted_codes.get(), count, "code");
  const int64_t bytes = shape.rows * code_bytes(shape.layout.axis, true);
  Tensor<uint8_t> pairs(bytes, off);
  job.y = pairs.get();
  job.packed = true;
  check_done(Launches<Element>::codes(dtype, job, shape.rows, nullptr), "packed codes");
  check_all(pairs.get(), packed_codes(shape, wanted_codes.get()).get(), bytes, "byte of two codes");
  for (int64_t i = 0; i < count; ++i) from_float(draws.unit(), grad.get()[i]);
  std::vector<float> of_scale(static_cast<size_t>(groups)), of_zero(static_cast<size_t>(groups));
  const bool wants_zero = draws.below(2) == 0;
  const Gradient asked{grad.get(), grad_x.get(), of_scale.data(), wants_zero ? of_zero.data() : nullptr,
                       static_cast<Gate>(draws.below(4)), static_cast<float>(draws.between(1, 8)) * 0.125f};
  const size_t chunks = static_cast<size_t>(groups * cuda::chunks_in_group(shape.layout));
  std::vector<double> scale_sums(chunks), zero_sums(chunks);
  check_done(Launches<Element>::gradients(dtype, job, shape.rows,
                                          cuda::Gradients{asked, scale_sums.data(), zero_sums.data()}, nullptr),
             "gradients");
  const Gradients<T> wanted = defined_gradients<T>(shape, job, scales, asked);
  check_all(grad_x.get(), wanted.x.get(), count, "gradient of x");
  check_all(of_scale.data(), wanted.scale.data(), groups, "gradient of a scale");
  if (wants_zero) check_all(of_zero.data(), wanted.zero.data(), groups, "gradient of a zero point");
}

// Scales one to a group, or one for all.
template <class T>
void check_dequantized(const Shape& shape, Draws& draws) {
  const bool few = draws.below(2) == 0, one_scale = draws.below(4) == 0;
  const int64_t off = draws.below(3) == 0 ? draws.below(16) : 0;
  context = std::string("dequantized ") + name_of(dtype_of(T{})) + (few ? " packed " : " ") + shape.name();
  Coded coded(shape, few, draws);
  if (one_scale) {
    std::fill(coded.scale.begin(), coded.scale.end(), coded.scale[0]);
    std::fill(coded.zero.begin(), coded.zero.end(), coded.zero[0]);
  }
  const float* zero = coded.has_zeros ? coded.zero.data() : nullptr;
  const int64_t bytes = shape.rows * code_bytes(shape.layout.axis, few);
  const Buffer<uint8_t> pairs = packed_codes(shape, coded.codes.data());
  Tensor<uint8_t> codes(bytes, off);
  std::memcpy(codes.get(), few ? pairs.get() : coded.codes.data(), static_cast<size_t>(bytes));
  Tensor<T> y(shape.count());
  const Dequantize job{codes.get(), y.get(), shape.layout, coded.table.data(), few, coded.scale.data(), zero};
  check_done(cuda::dequantize(dtype_of(T{}), job, shape.rows, one_scale ? 1 : 0, nullptr), "dequantize");
  check_all(y.get(), defined_dequantized<T>(shape, coded.codes.data(), coded.table.data(), coded.scale.data(), zero).get(),
            shape.count(), "value");
}

template <class T, class Element>
void check_format(const Shape& shape, const Element& element, Scaling scaling, Draws& draws) {
  const bool with_level = scaling.kind == ScaleKind::e4m3 && draws.below(2) == 0, whole = draws.below(6) == 0;
  const bool finite = with_level || whole || draws.below(2) == 0;
  const int64_t off = draws.below(3) == 0 ? draws.below(16 / static_cast<int64_t>(sizeof(T))) : 0;
  const int64_t gap = draws.below(4) == 0 ? draws.below(9) : 0, stride = shape.layout.axis + gap;
  const Buffer<T> x = filled<T>(shape, element, scaling.largest, finite, draws);
  Tensor<T> strided(shape.rows * stride - gap, off);
  for (int64_t row = 0; row < shape.rows; ++row) {
    std::memcpy(strided.get() + row * stride, x.get() + row * shape.layout.axis,
                static_cast<size_t>(shape.layout.axis) * sizeof(T));
  }
  context = std::string(name_of(dtype_of(T{}))) + " " + context + (off > 0 ? ", unaligned" : "") +
            (gap > 0 ? ", strided" : "") + (whole ? ", whole" : with_level ? ", level" : "");
  if (with_level) scaling.tensor_scale = tensor_scale_of(absmax_of(x.get(), shape.count()), scaling.largest);
  const uint64_t seed = uint64_t{draws.word()} << 32 | draws.word();
  FakeQuant<Element> defined{x.get(), nullptr, shape.layout, element, scaling};
  defined.seed = seed;
  float range[2] = {INFINITY, -INFINITY};
  for (int64_t i = 0; whole && i < shape.count(); ++i) {
    range[0] = std::min(range[0], to_float(x[static_cast<size_t>(i)]));
    range[1] = std::max(range[1], to_float(x[static_cast<size_t>(i)]));
  }
  defined.range = whole ? range : nullptr;
  const Scales scales = defined_scales<T>(shape, defined);
  cuda::Job<Element> job;
  static_cast<FakeQuant<Element>&>(job) = defined;
  job.x = strided.get();
  job.x_stride = stride;
  job.tensor_level = with_level;
  job.one_range = whole;
  std::vector<Ends> parts;
  if (whole || with_level) find_parts<T>(job, shape, parts);
  if (gap == 0) {
    check_own<T>(shape, job, scales, off);
    return check_given<T>(shape, job, scales, draws, off);
  }
  // The definition reads x without gaps.
  Tensor<T> y(shape.count(), off);
  job.y = y.get();
  check_done(Launches<Element>::values(dtype_of(T{}), job, shape.rows, nullptr), "values");
  check_all(y.get(), defined_values<T>(shape, defined, scales).get(), shape.count(), "value of strided rows");
}

void check_shapes(uint64_t seed) {
  const Shape shapes[] = {
      rows_of(2, 1, 1),
      rows_of(5, 16, 8),
      rows_of(3, 15, 15),
      rows_of(3, 50, 16),  // ragged
      rows_of(5, 70, 5),   // groups that have bytes in common
      rows_of(7, 64, 32),
      rows_of(2, 257, 16),
      rows_of(1, 96, 24),
      rows_of(3, 97, 48),
      rows_of(4, 768, 128),
      rows_of(1, 1000, 1000),  // whole packs, not a power of two
      squares_of(2, 7, 21, 4, 4),  // ragged both ways
      squares_of(1, 3, 261, 2, 16),
      squares_of(1, 3, 1400, 2, 1100),
      rows_of(3, 512, 256),
      rows_of(2, 2048, 2048),
      rows_of(1, 6000, 6000),
      rows_of(2, 4133, 4133),
      rows_of(1, 20000, 20000),
      rows_of(40, 64, 16),
  };
  Draws draws(seed);
  int turn = 0;
  for (const Shape& shape : shapes) {
    const int64_t share = shape.count() < 300 ? 2 : shape.count() < 2000 ? 5 : 16;
    const auto with = [&](const auto& element, const Scaling& scaling) {
      if ((++turn + static_cast<int>(seed)) % share != 0) return;
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
    check_dequantized<float>(shape, draws);
    check_dequantized<BFloat16>(shape, draws);
    check_dequantized<Half>(shape, draws);
    for_ints(with);
#if !defined(QSCALE_ONLY_INTS)  // a sanitizer's build is long, and the kernels are the same templates
    for_floats(with);
    for_codebooks(with);
#endif
  }
}

}  // namespace

int main(int count, char** arguments) {
  const uint64_t seed = count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 4;
  emulator_seed(seed);
  check_shapes(seed);
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
