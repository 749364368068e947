// The kernels' own use of the device's conversions over arrays, and the arithmetic that they stand in for.
#define QSCALE_EMULATED_CASTS
#include "cuda/ways.cuh"

using namespace qscale;
using namespace qscale::cuda;

namespace {

template <class Use>
void with(const float* x, size_t count, int kind, Use use) {
  const FloatGrid grid = kind == 0 ? FloatGrid{3, -6, 448.0f} : FloatGrid{2, -14, 57344.0f};
  for (size_t i = 0; i < count; ++i) use(i, x[i], grid);
}

}  // namespace

extern "C" {

// Under a scale of 1; by the conversions, or by numerics/ alone.
void values_by_casts(const float* x, float* y, size_t count, int kind) {
  with(x, count, kind, [&](size_t i, float v, const FloatGrid& grid) {
    const Cast cast = cast_of(grid);
    y[i] = values_of_codes(cast_codes(0.0f, v, cast), cast).y;
  });
}
void values_by_numerics(const float* x, float* y, size_t count, int kind) {
  with(x, count, kind, [&](size_t i, float v, const FloatGrid& grid) { y[i] = value_of(v, 0.0f, grid, 0u); });
}
void codes_by_casts(const float* x, unsigned short* y, size_t count, int kind) {
  with(x, count, kind, [&](size_t i, float v, const FloatGrid& grid) {
    Job<FloatGrid> job{};
    job.element = grid;
    y[i] = Plain<FloatGrid>(job, OfTensor{}).code(v, {1.0f, 1.0f, 0.0f, 1.0f}, 0u);
  });
}
void codes_by_numerics(const float* x, unsigned short* y, size_t count, int kind) {
  with(x, count, kind, [&](size_t i, float v, const FloatGrid& grid) { y[i] = code_of(v, 0.0f, grid, 0u); });
}
}
