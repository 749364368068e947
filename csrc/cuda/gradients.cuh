// Gradients of fake quantization under given scales. Sums are added in the order of cpu/gradients.h, so that their bits
// are the same every run and on every device: without atomics.
#pragma once

#include "cuda/fake_quant.cuh"

namespace qscale::cuda {

__device__ __forceinline__ double from_lane(double v, int distance) { return __shfl_xor_sync(kAllLanes, v, distance); }

// Of 2 * `distance` neighbouring lanes.
__device__ __forceinline__ double folded_lanes(double sum, int distance) {
  for (; distance > 0; distance /= 2) sum += from_lane(sum, distance);
  return sum;
}

// Of the terms of one lane.
template <int count, class V>
__device__ __forceinline__ double folded_terms(const V (&terms)[count]) {
  if constexpr (count == 1) {
    return static_cast<double>(terms[0]);
  } else {
    double sums[count / 2];
#pragma unroll
    for (int i = 0; i < count / 2; ++i) {
      sums[i] = static_cast<double>(terms[i]) + static_cast<double>(terms[i + count / 2]);
    }
    return folded_terms(sums);
  }
}

// Of `count` terms in each of 2 * `distance` neighbouring lanes, one lane's behind the other's: halves of the lanes are
// added first, halves of terms after them. At each step a lane passes on half of its terms and keeps the others.
template <int count, class V>
__device__ __forceinline__ double folded(const V (&terms)[count], int distance) {
  if constexpr (count == 1) {
    return folded_lanes(terms[0], distance);
  } else {
    if (distance == 0) return folded_terms(terms);
    const bool upper = (threadIdx.x & static_cast<unsigned>(distance)) != 0u;
    double sums[count / 2];
#pragma unroll
    for (int i = 0; i < count / 2; ++i) {
      const V kept = upper ? terms[2 * i + 1] : terms[2 * i], other = upper ? terms[2 * i] : terms[2 * i + 1];
      sums[i] = static_cast<double>(kept) + static_cast<double>(from_lane(other, distance));
    }
    const double sum = folded(sums, distance / 2);
    return sum + from_lane(sum, distance);
  }
}

template <class Element>
struct Sloped {
  const Job<Element>& job;
  const Gradient& to;
  float scale, divisor, zero;

  __device__ __forceinline__ Sloped(const Job<Element>& asked, const Gradient& gradient, int64_t number)
      : job(asked), to(gradient) {
    const auto given = Plain<Element>(job, {1.0f}).scale(Ends{}, number);
    scale = given.scale;
    divisor = given.divisor;
    zero = given.zero;
  }

  // The gradient of x; what an element adds to those of its scale and its zero point.
  __device__ __forceinline__ float operator()(float x, float grad, int64_t at, float& of_scale, float& of_zero) const {
    const uint32_t random = is_stochastic(job.element) ? random_word(static_cast<uint64_t>(at), job.seed) : 0u;
    const Slopes slopes = slopes_of(x, x / divisor, scale, zero, job.element, random, to.gate, to.trust);
    of_scale = grad * slopes.of_scale;
    of_zero = grad * slopes.of_zero;
    return slopes.passes ? grad : 0.0f;
  }
};

__device__ __forceinline__ void write_sums(const Gradients& out, bool in_chunks, int64_t number, double of_scale,
                                           double of_zero) {
  // Chunks are added to a zero.
  if (in_chunks) {
    out.scale_sums[number] = of_scale;
    if (out.to.grad_zero != nullptr) out.zero_sums[number] = of_zero;
  } else {
    out.to.grad_scale[number] = static_cast<float>(0.0 + of_scale);
    if (out.to.grad_zero != nullptr) out.to.grad_zero[number] = static_cast<float>(0.0 + of_zero);
  }
}

// One pack: its gradient is stored, and its terms are left.
template <class T, class Element>
__device__ __forceinline__ void gradient_of_pack(const Sloped<Element>& sloped, uint4 x_words, uint4 grad_words,
                                                 int64_t pack, float (&of_scale)[kPack<T>], float (&of_zero)[kPack<T>]) {
  float x[kPack<T>], grad[kPack<T>];
  unpack<T>(x_words, x);
  unpack<T>(grad_words, grad);
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) {
    grad[i] = sloped(x[i], grad[i], pack * kPack<T> + i, of_scale[i], of_zero[i]);
  }
  store_pack(sloped.to.grad_x, pack, packed<T>(grad));
}

// Groups of 1, 2, 4, ... 32 packs, each a power of two of elements and at most a chunk.
template <class T, class Element>
__global__ void __launch_bounds__(kThreads)
    narrow_gradients(const __grid_constant__ Job<Element> job, const __grid_constant__ Gradients out, int log_lanes,
                     int64_t packs) {
  const int64_t pack = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, number = pack >> log_lanes;
  float of_scale[kPack<T>] = {}, of_zero[kPack<T>] = {};
  if (pack < packs) {
    gradient_of_pack<T>(Sloped<Element>(job, out.to, number), load_pack(job.x, pack), load_pack(out.to.grad, pack), pack,
                        of_scale, of_zero);
  }
  const int distance = (1 << log_lanes) / 2;
  const double scale_sum = folded(of_scale, distance);
  const double zero_sum = out.to.grad_zero == nullptr ? 0.0 : folded(of_zero, distance);
  if (pack < packs && (pack & ((1 << log_lanes) - 1)) == 0) write_sums(out, false, number, scale_sum, zero_sum);
}

// Any layout, an element at a time: a warp for each chunk of a group, whose elements i lie i / 32 apart in its lanes.
// Rows of a square begin a chunk each. A lane takes a quarter of its elements at a time, in the order that sums are added.
template <class T, class Element>
__global__ void __launch_bounds__(kThreads, 3)
    any_gradients(const __grid_constant__ Job<Element> job, const __grid_constant__ Gradients out, int64_t chunks_in_row,
                  int64_t chunks_in_group, int64_t chunks) {
  constexpr int parts = 4, each = kSumChunk / kWarp / parts;
  const int64_t number = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
  if (number >= chunks) return;  // a whole warp
  const int64_t group = number / chunks_in_group, chunk = number - group * chunks_in_group;
  const Place place = place_of_group(job.layout, group);
  const int64_t row = chunk / chunks_in_row, start = (chunk - row * chunks_in_row) * kSumChunk;
  const Sloped<Element> sloped(job, out.to, group);
  const int64_t at = (place.row + row) * job.layout.axis + place.column + start;
  const int64_t behind = row < place.rows ? place.columns - start : 0;
  const int left = static_cast<int>(behind < kSumChunk ? behind : kSumChunk);
  const T* x = static_cast<const T*>(job.x) + at;
  const T* grad = static_cast<const T*>(out.to.grad) + at;
  T* grad_x = static_cast<T*>(out.to.grad_x) + at;
  // The terms of a lane are the upper bits of a place, those of lanes the lower ones. The lowest of the upper ones say
  // which part: they come last in a sum.
  double scale_sum = 0.0, zero_sum = 0.0;
#pragma unroll 1
  for (int lower = 0; lower < 2; ++lower) {
    double of_scale_pair = 0.0, of_zero_pair = 0.0;
#pragma unroll 1
    for (int part = lower; part < parts; part += 2) {
      T x_of[each], grad_of[each];  // all asked for before any is waited for
      float of_scale[each], of_zero[each];
      const int first = part * kWarp + static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
      for (int k = 0; k < each; ++k) {
        const int i = first + k * parts * kWarp;
        x_of[k] = i < left ? x[i] : T{};
        grad_of[k] = i < left ? grad[i] : T{};
      }
#pragma unroll
      for (int k = 0; k < each; ++k) {
        const int i = first + k * parts * kWarp;
        of_scale[k] = of_zero[k] = 0.0f;
        if (i >= left) continue;
        from_float(sloped(to_float(x_of[k]), to_float(grad_of[k]), at + i, of_scale[k], of_zero[k]), grad_x[i]);
      }
      of_scale_pair += folded_terms(of_scale);
      of_zero_pair += folded_terms(of_zero);
    }
    scale_sum += of_scale_pair;
    zero_sum += of_zero_pair;
  }
  scale_sum = folded_lanes(scale_sum, kWarp / 2);
  zero_sum = out.to.grad_zero == nullptr ? 0.0 : folded_lanes(zero_sum, kWarp / 2);
  if (threadIdx.x % kWarp == 0) write_sums(out, chunks_in_group > 1, number, scale_sum, zero_sum);
}

// The sums of the chunks of a group, one after the other.
static __global__ void __launch_bounds__(kThreads)
    add_chunks(const __grid_constant__ Gradients out, int64_t chunks_in_group, int64_t groups) {
  const int64_t group = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (group >= groups) return;
  double of_scale = 0.0, of_zero = 0.0;
  for (int64_t i = group * chunks_in_group; i < (group + 1) * chunks_in_group; ++i) {
    of_scale += out.scale_sums[i];
    if (out.to.grad_zero != nullptr) of_zero += out.zero_sums[i];
  }
  out.to.grad_scale[group] = static_cast<float>(of_scale);
  if (out.to.grad_zero != nullptr) out.to.grad_zero[group] = static_cast<float>(of_zero);
}

}  // namespace qscale::cuda
