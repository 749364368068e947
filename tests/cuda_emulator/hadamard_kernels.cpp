// The CUDA kernels of Hadamard transforms, on the emulator, against a plain loop: a program that exits with 1 where a bit
// differs. Arguments: a seed for the data, one for the order of threads, and "few" for the cheapest shapes alone.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "../csrc/check.h"
#include "../csrc/defined_hadamard.h"
#include "cuda/hadamard.h"
#include "emulator.h"

int failures = 0;
std::string context;

namespace {

using namespace qscale;

DType dtype_of(float) { return DType::float32; }
DType dtype_of(BFloat16) { return DType::bfloat16; }
DType dtype_of(Half) { return DType::float16; }
const char* name_of(float) { return "float32"; }
const char* name_of(BFloat16) { return "bfloat16"; }
const char* name_of(Half) { return "float16"; }

void check_done(cudaError_t done, const char* what) {
  if (done == cudaSuccess) return;
  std::printf("%s: %s: %s: %s\n", context.c_str(), what, cudaGetErrorString(done), emulator_report());
  ++failures;
}

// Device memory: aligned, `off` elements beyond that, and of exactly the right size.
template <class T>
class Memory {
 public:
  explicit Memory(int64_t n, int64_t off = 0) : off_(off) {
    const size_t bytes = static_cast<size_t>(n + off) * sizeof(T);
    data_ = std::malloc(bytes + 1);
    std::memset(data_, 0x5a, bytes);
  }
  ~Memory() { std::free(data_); }
  Memory(const Memory&) = delete;
  T* get() { return static_cast<T*>(data_) + off_; }

 private:
  void* data_;
  int64_t off_;
};

struct Shape {
  int64_t base, inner, in_row, rows;
  int64_t size() const { return base * inner; }
  int64_t axis() const { return size() * in_row; }
};

enum class Flips { none, before, after };

// How x and y lie.
enum class Lie { apart, in_place, strided, unaligned };

template <class T>
void draw(Draws& draws, T* x, int64_t n, int64_t special) {
  const float odd[] = {INFINITY, -INFINITY, quiet_nan(), 0x1p-140f, -0x1p-24f, 6e4f, 3e38f, -3e38f};
  const int64_t zeros = draws.below(3);  // in a row, of both signs
  for (int64_t i = 0; i < n; ++i) {
    const bool is_odd = special > 0 && draws.below(special) == 0;
    const float zero = draws.below(2) == 0 ? -0.0f : 0.0f;
    from_float(is_odd ? odd[draws.below(8)] : i % 97 < 32 * zeros ? zero : draws.unit() * 4.0f, x[i]);
  }
}

template <class T>
void check(const Shape& shape, Flips flips, Lie lie, Draws& draws) {
  const int64_t n = shape.size(), axis = shape.axis(), count = axis * shape.rows;
  context = std::string(name_of(T{})) + " " + std::to_string(shape.base) + " x " + std::to_string(shape.inner) + ", " +
            std::to_string(shape.in_row) + " in each of " + std::to_string(shape.rows) + " rows, flips " +
            std::to_string(static_cast<int>(flips)) + ", lie " + std::to_string(static_cast<int>(lie));
  const int64_t stride = axis + (lie == Lie::strided ? draws.between(1, 9) : 0);
  const int64_t off = lie == Lie::unaligned ? draws.between(1, 3) : 0;
  Memory<T> given(shape.rows * stride, off), apart(count, lie == Lie::unaligned ? draws.below(4) : 0);
  draw(draws, given.get(), shape.rows * stride, draws.below(3) * 4 * n);
  std::vector<T> x(given.get(), given.get() + shape.rows * stride);
  std::vector<float> matrix(static_cast<size_t>(shape.base * shape.base)), signs;
  for (float& entry : matrix) entry = draws.below(2) == 0 ? 1.0f : -1.0f;  // any signs will do
  if (flips != Flips::none) signs.resize(static_cast<size_t>(draws.below(2) == 0 ? n : axis));
  for (float& sign : signs) sign = draws.below(2) == 0 ? 1.0f : -1.0f;

  const std::vector<uint32_t> words = cuda::sign_words(matrix.data(), shape.base);
  const int64_t period = signs.empty() ? 0 : cuda::flips_of_signs(dtype_of(T{}), static_cast<int64_t>(signs.size()));
  Memory<T> made_flips(period);
  if (!signs.empty()) {
    check_done(cuda::find_flips(dtype_of(T{}), signs.data(), static_cast<int64_t>(signs.size()), made_flips.get(),
                                nullptr),
               "flips");
  }
  T* y = lie == Lie::in_place ? given.get() : apart.get();
  cuda::Hadamard job{given.get(), y, shape.base, shape.inner, words.data(),
                     static_cast<float>(1.0 / std::sqrt(static_cast<double>(n))),
                     signs.empty() ? nullptr : made_flips.get(), period, flips == Flips::after,
                     shape.in_row * shape.rows, axis, stride};
  const int64_t room = cuda::hadamard_workspace(dtype_of(T{}), job);
  Memory<float> workspace(room);
  check_done(cuda::hadamard(dtype_of(T{}), job, room > 0 ? workspace.get() : nullptr, nullptr), "hadamard");

  const auto sign = [&](int64_t at) {
    return signs.empty() ? 1.0f : signs[static_cast<size_t>(at % static_cast<int64_t>(signs.size()))];
  };
  for (int64_t block = 0; block < job.blocks; ++block) {
    const int64_t row = block / shape.in_row, start = block % shape.in_row * n;
    std::vector<float> v(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      const float value = to_float(x[static_cast<size_t>(row * stride + start + i)]);
      v[static_cast<size_t>(i)] = flips == Flips::before ? value * sign(start + i) : value;
    }
    v = defined_hadamard(v, shape.base, shape.inner, matrix.data(), job.scale);
    for (int64_t i = 0; i < n; ++i) {
      T wanted;
      from_float(flips == Flips::after ? v[static_cast<size_t>(i)] * sign(start + i) : v[static_cast<size_t>(i)], wanted);
      check_same(y[block * n + i], wanted, "transform", block * n + i);
    }
  }
}

template <class T>
void check_all(const std::vector<Shape>& shapes, Draws& draws) {
  for (const Shape& shape : shapes) {
    const bool is_long = shape.size() * shape.base > 100000;  // in the emulator's time
    const int first = static_cast<int>(draws.below(12));
    for (int i = 0; i < (is_long ? 2 : 12); ++i) {  // every combination, or two of them
      const int way = (first + 5 * i) % 12;
      check<T>(shape, static_cast<Flips>(way % 3), static_cast<Lie>(way / 3), draws);
    }
  }
}

}  // namespace

int main(int count, char** arguments) {
  Draws draws(count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 1);
  emulator_seed(count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 1);
  const bool few = count > 3 && std::strcmp(arguments[3], "few") == 0;
  // Blocks of less than a pack, of a part of a warp, of a warp, of its registers; bases with rows of less than a pack, with
  // many blocks to a thread block.
  std::vector<Shape> shapes = {{1, 1, 7, 3},  {1, 2, 3, 5},   {1, 4, 3, 7},   {1, 8, 5, 7},   {1, 16, 7, 5}, {1, 32, 3, 11},
                               {1, 64, 2, 9}, {1, 128, 3, 1}, {1, 512, 1, 3}, {1, 4096, 1, 1}, {12, 1, 3, 5}, {12, 2, 1, 7},
                               {20, 4, 1, 3}, {12, 8, 2, 3},  {12, 64, 1, 3}};
  if (!few) {
    const std::vector<Shape> more = {
        {1, 1, 1, 1},     {1, 2, 1, 1},     {1, 32, 5, 61},   {1, 256, 3, 13},  {1, 1024, 1, 9},  {1, 2048, 1, 2},
        {1, 2048, 2, 1},  {1, 8192, 1, 1},  {1, 16384, 1, 1}, {1, 32768, 1, 1}, {1, 65536, 1, 1}, {12, 1, 1, 1},
        {12, 2, 1, 1100}, {12, 8, 4, 150},  {28, 16, 1, 3},   {20, 32, 3, 2},   {52, 32, 2, 1},   {36, 256, 1, 1},
        {12, 1024, 1, 1}, {28, 512, 1, 1},  {44, 64, 1, 2},   {84, 128, 1, 1},  {172, 64, 1, 1},  {12, 2048, 1, 1},
        {12, 4096, 1, 1}, {12, 8192, 1, 5}, {172, 1, 2, 1}};
    shapes.insert(shapes.end(), more.begin(), more.end());
  }
  check_all<float>(shapes, draws);
  check_all<BFloat16>(shapes, draws);
  check_all<Half>(shapes, draws);
  std::printf("%d failures\n", failures);
  return failures > 0 ? 1 : 0;
}
