// The way in and out of a rule of another library: the steps of numerics/dialects, in their order.
#pragma once

#include <type_traits>
#include <utility>

#include "cuda/ways.cuh"
#include "numerics/dialects/rules.h"

namespace qscale::cuda {

// What a way needs of a rule beside its steps: nothing, but for a table, which a block keeps in shared memory.
template <class Rule, class = void>
struct Table {
  static constexpr bool kIsThere = false;
  __device__ __forceinline__ explicit Table(const Rule&) {}
};

template <class Rule>
struct Table<Rule, std::void_t<decltype(Rule::table)>> {
  static constexpr bool kIsThere = true;
  const float* nodes;  // of the tree, then its leaves

  __device__ __forceinline__ explicit Table(const Rule& rule) : nodes(shared().bins) {
    const int threads = static_cast<int>(blockDim.x * blockDim.y);
    for (int i = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x); i < 32; i += threads) {
      shared().bins[i] = i < 16 ? rule.table.tree[i] : rule.table.values[i - 16];
    }
    __syncthreads();
  }

  __device__ __forceinline__ float nearest(float v) const {
    int node = 1;
#pragma unroll
    for (int level = 0; level < 4; ++level) node = 2 * node + (v > nodes[node] ? 1 : 0);
    return nodes[node];
  }
};

template <class T, class Rule>
struct Dialect {
  using Element = Rule;
  using Reduced = typename Rule::Reduced;
  using Scale = decltype(dialects::scale_of<T>(Reduced{}, std::declval<const Rule&>()));
  static constexpr bool kMayRefuse = false;
  static constexpr int kMostThreads = 512;  // more, and registers are spilled
  const Job<Rule>& job;
  // Where it is the job's it is not copied: a table that is indexed has to stay where it lies.
  decltype(dialects::of_tensor<T>(0.0f, std::declval<const Rule&>())) rule;
  Table<Rule> table;

  __device__ __forceinline__ Dialect(const Job<Rule>& asked, const OfTensor& tensor)
      : job(asked),
        rule(job.tensor_level ? dialects::of_tensor<T>(magnitude_of(tensor.range), job.element) : job.element),
        table(job.element) {}
  __device__ __forceinline__ const Dialect& for_any() const { return *this; }

  __device__ __forceinline__ Scale scale(Reduced reduced, int64_t) const {
    return dialects::scale_of<T>(reduced, rule);
  }
  __device__ __forceinline__ bool serves(const Scale&) const { return true; }
  static __device__ __forceinline__ bool is_random() { return false; }
  __device__ __forceinline__ float value(float x, const Scale& s, uint32_t) const {
    if constexpr (Table<Rule>::kIsThere) {
      return dialects::value_of(table.nearest(dialects::looked_up(x, s, rule)), s);
    } else {
      return dialects::round_trip<T>(x, s, rule);
    }
  }
};

}  // namespace qscale::cuda
