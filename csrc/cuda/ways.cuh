// Ways in and out of a format: what a group is asked, its scale, and what becomes of each element. A way that may refuse
// a scale has `exact` for it; `for_any` is the way that serves any element, whatever is known of its group.
#pragma once

#include <type_traits>

#include "cuda/casts.cuh"
#include "cuda/jobs.cuh"
#include "numerics/codes.h"
#include "numerics/philox.h"
#include "numerics/quotient.h"

namespace qscale::cuda {

// The operations of numerics/, element by element: any element, any option, scales of the caller.
template <class Element_>
struct Plain {
  using Element = Element_;
  using Reduced = Ends;
  static constexpr bool kMayRefuse = false;
  static constexpr int kMostThreads = 512;  // more, and registers are spilled
  struct Scale {
    float scale, divisor, zero, beside;  // the last without the scale of the tensor
  };
  const Job<Element>& job;
  float tensor_scale;

  __device__ __forceinline__ Plain(const Job<Element>& asked, OfTensor tensor)
      : job(asked), tensor_scale(tensor.scale) {}
  __device__ __forceinline__ const Plain& for_any() const { return *this; }

  __device__ __forceinline__ Scale scale(Ends ends, int64_t number) const {
    if (job.scale != nullptr) {
      const int64_t which = job.scale_count == 0 ? number : number % job.scale_count;
      const float scale = job.scale[which];
      const float zero = job.zero_point == nullptr ? 0.0f : zero_point_in_use(job.zero_point[which], job.element);
      return {scale, divisor_of(scale), zero, scale};
    }
    float least, most;
    floats_of(ends, &least, &most);
    Scaling scaling = job.scaling;
    scaling.tensor_scale = tensor_scale;
    if constexpr (std::is_same_v<Element, IntGrid>) {
      if (is_two_ended(job.element)) {
        const Span span = spanned(least, most, job.element);
        const float range = half_range(span.from, span.to), scale = scale_of(range, scaling);
        const float divisor = divisor_of(scale);
        return {scale, divisor, zero_point_of(span.from, divisor, job.element), group_scale(range, scaling)};
      }
    }
    const float range = larger(fabsf(least), fabsf(most)), beside = group_scale(range, scaling);
    const float scale = beside * tensor_scale;
    return {scale, divisor_of(scale), 0.0f, beside};
  }
  __device__ __forceinline__ bool serves(const Scale&) const { return true; }
  __device__ __forceinline__ bool is_random() const { return is_stochastic(job.element); }
  __device__ __forceinline__ float value(float x, const Scale& s, uint32_t random) const {
    if constexpr (std::is_same_v<Element, FloatGrid>) {
      const Cast cast = cast_of(job.element);
      if (cast != Cast::none) return values_of_codes(cast_codes(x / s.divisor, 0.0f, cast), cast).x * s.scale;
    }
    return value_of(x / s.divisor, s.zero, job.element, random) * s.scale;
  }
  __device__ __forceinline__ uint8_t code(float x, const Scale& s, uint32_t random) const {
    if constexpr (std::is_same_v<Element, FloatGrid>) {
      const Cast cast = cast_of(job.element);
      const float quotient = x / s.divisor;
      if (cast != Cast::none) return is_nan(quotient) ? uint8_t{0} : static_cast<uint8_t>(cast_codes(quotient, 0.0f, cast));
    }
    return code_of(x / s.divisor, s.zero, job.element, random);
  }
};

// How numbers, none of them a NaN, become values, as cpu/round_trips.h has it: `held` where they may be past the ends.
template <bool held>
struct QuickInt {
  using Element = IntGrid;
  float low, high;

  __device__ __forceinline__ explicit QuickInt(const IntGrid& grid) : low(grid.qmin), high(grid.qmax) {}
  static __host__ bool serves(const IntGrid& grid) {
    return grid.rounding == Rounding::even && grid.zero_point == ZeroPoint::none;
  }
  static __device__ __forceinline__ int smallest(const IntGrid&) { return -2; }

  __device__ __forceinline__ float operator()(float quotient) const {
    constexpr float shift = 0x1.8p23f;
    if constexpr (held) quotient = fminf(fmaxf(quotient, low), high);
    return __fsub_rn(__fadd_rn(quotient, shift), shift);
  }
  __device__ __forceinline__ float signed_zero(float y, float) const { return y; }
};

template <bool held>
struct QuickFloat {
  using Element = FloatGrid;
  float largest, smallest_normal, shift;
  uint32_t sign;

  __device__ __forceinline__ explicit QuickFloat(const FloatGrid& grid)
      : largest(grid.largest),
        smallest_normal(power_of_two(grid.min_exponent)),
        shift(1.5f * power_of_two(23 - grid.mantissa_bits)),
        sign(has_negative_zero(grid) ? 0x80000000u : 0u) {}
  static __host__ bool serves(const FloatGrid& grid) {
    return grid.rounding == Rounding::even && grid.mantissa_bits > 0 && grid.largest <= 0x1p100f;
  }
  static __device__ __forceinline__ int smallest(const FloatGrid& grid) {
    return grid.min_exponent - grid.mantissa_bits - 2;
  }

  __device__ __forceinline__ float operator()(float quotient) const {
    if constexpr (held) quotient = fminf(fmaxf(quotient, -largest), largest);
    const float power = fmaxf(float_of(bits_of(quotient) & 0x7f800000u), smallest_normal);
    return __fmaf_rn(-power, shift, __fmaf_rn(power, shift, quotient));
  }
  __device__ __forceinline__ float signed_zero(float y, float x) const {
    return float_of(bits_of(y) | (bits_of(x) & sign));
  }
};

template <bool held>
struct QuickCodebook {
  using Element = Codebook;
  const float* bins;  // shared: midpoints, values below, values above

  __device__ __forceinline__ explicit QuickCodebook(const Codebook& table) {
    static_assert(sizeof(Shared::bins) == 3 * kBins * sizeof(float));
    float* copied = shared().bins;
    const int threads = static_cast<int>(blockDim.x * blockDim.y);
    for (int i = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x); i < 3 * kBins; i += threads) {
      copied[i] = i < kBins ? table.midpoint[i] : i < 2 * kBins ? table.below[i - kBins] : table.above[i - 2 * kBins];
    }
    __syncthreads();
    bins = copied;
  }
  static __host__ bool serves(const Codebook&) { return true; }
  static __device__ __forceinline__ int smallest(const Codebook&) { return -10; }

  __device__ __forceinline__ float operator()(float quotient) const {
    if constexpr (held) quotient = fminf(fmaxf(quotient, -1.0f), 1.0f);
    const float place = __fmaf_rn(quotient, kBinsPerUnit, kBinOfZero);
    const uint32_t bin = bits_of(__fadd_rn(place, 0x1.8p23f)) % kBins;
    const float below = bins[kBins + bin], above = bins[2 * kBins + bin];
    return quotient > bins[bin] ? above : below;
  }
  __device__ __forceinline__ float signed_zero(float y, float) const { return y; }
};

// Scales of the groups' own, ties to even: quotients without a division, by `steps` Newton steps; none where the scale
// is a power of two. A group whose scale is out of the ordinary goes the plain way.
template <class Rounder, int steps>
struct Quick {
  using Element = typename Rounder::Element;
  using Reduced = float;
  static constexpr bool kMayRefuse = true;
  static constexpr int kMostThreads = 1024;
  struct Scale {
    float scale, reciprocal;
  };
  const Job<Element>& job;
  float tensor_scale, least;
  Rounder rounder;

  __device__ __forceinline__ Quick(const Job<Element>& asked, OfTensor tensor)
      : job(asked),
        tensor_scale(tensor.scale),
        least(smallest_fast_scale(Rounder::smallest(asked.element))),
        rounder(asked.element) {}
  __device__ __forceinline__ Plain<Element> for_any() const { return {job, {tensor_scale}}; }

  __device__ __forceinline__ Scale scale(float absmax, int64_t) const {
    Scaling scaling = job.scaling;
    scaling.tensor_scale = tensor_scale;
    float scale;
    if constexpr (steps == 0) {
      const int biased = mx_exponent(absmax, scaling) + 127;  // of 2**-127 it is 0, and the pattern is subnormal
      scale = is_finite(absmax) ? float_of(max(static_cast<uint32_t>(biased) << 23, 0x400000u)) : quiet_nan();
      // Where the scale serves, neither it nor its reciprocal is subnormal.
      return {scale, float_of(0x7f000000u - bits_of(scale))};
    } else if (scaling.kind == ScaleKind::float32) {
      scaling.kind = ScaleKind::float32;
      scaling.tensor_scale = 1.0f;
      scale = scale_of(absmax, scaling);
    } else {
      scale = scale_of(absmax, scaling);
    }
    return {scale, __frcp_rn(scale)};
  }
  __device__ __forceinline__ bool serves(const Scale& s) const {
    return s.scale >= least && s.scale <= kLargestFastScale;
  }
  static __device__ __forceinline__ bool is_random() { return false; }
  __device__ __forceinline__ float value(float x, const Scale& s, uint32_t) const {
    float quotient = __fmul_rn(x, s.reciprocal);
#pragma unroll
    for (int step = 0; step < steps; ++step) {
      quotient = __fmaf_rn(__fmaf_rn(-quotient, s.scale, x), s.reciprocal, quotient);
    }
    return rounder.signed_zero(__fmul_rn(rounder(quotient), s.scale), x);
  }
  __device__ __forceinline__ float exact(float x, const Scale& s) const {
    return value_of(x / divisor_of(s.scale), 0.0f, job.element, 0u) * s.scale;
  }
};

}  // namespace qscale::cuda
