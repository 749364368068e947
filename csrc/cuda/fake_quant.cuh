// Groups in and out of a format. One read and one write of memory where the elements of a group fit into registers.
#pragma once

#include "cuda/launch.h"
#include "cuda/packs.cuh"
#include "cuda/ways.cuh"

namespace qscale::cuda {

constexpr int kThreads = 256;

enum class Output { values, scales, codes };

__device__ __forceinline__ Ends whole_range(Ends range, Ends) { return range; }
__device__ __forceinline__ float whole_range(Ends range, float) { return magnitude_of(range); }
__device__ __forceinline__ dialects::Ends whole_range(Ends range, dialects::Ends) {
  dialects::Ends ends{};
  floats_of(range, &ends.low, &ends.high);
  return joined(nothing_of(ends), ends);
}

// The codes of a pack: a byte each, or two to a byte.
template <class T>
__device__ __forceinline__ void store_codes(const uint8_t (&codes)[kPack<T>], void* y, int64_t pack, bool packed) {
  constexpr int n = kPack<T>;
  if (packed) {
    uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < n; ++i) word |= (codes[i] & 15u) << 4 * i;
    if constexpr (n == 8) {
      static_cast<uint32_t*>(y)[pack] = word;
    } else {
      static_cast<uint16_t*>(y)[pack] = static_cast<uint16_t>(word);
    }
    return;
  }
  uint32_t words[n / 4];
#pragma unroll
  for (int i = 0; i < n; i += 4) {
    words[i / 4] = codes[i] | codes[i + 1] << 8 | codes[i + 2] << 16 | static_cast<uint32_t>(codes[i + 3]) << 24;
  }
#pragma unroll
  for (int i = 0; i < n / 4; ++i) static_cast<uint32_t*>(y)[pack * (n / 4) + i] = words[i];
}

// What becomes of the elements of one pack; `at` is the number of the first in the tensor.
template <class T, class Way, Output output>
__device__ __forceinline__ void finish_pack(const Way& way, const float (&v)[kPack<T>], const typename Way::Scale& scale,
                                            const void* x, void* y, int64_t pack) {
  constexpr int n = kPack<T>;
  if (!way.serves(scale)) {
    if constexpr (Way::kMayRefuse) {
      const T* from = static_cast<const T*>(x) + pack * n;
      T* to = static_cast<T*>(y) + pack * n;
#pragma unroll 1
      for (int i = 0; i < n; ++i) from_float(way.exact(to_float(from[i]), scale), to[i]);
    }
    return;
  }
  float out[n];
  uint8_t codes[n];
#pragma unroll
  for (int i = 0; i < n; i += 4) {
    PhiloxState words{};
    if (way.is_random()) words = random_words(static_cast<uint64_t>(pack * n + i) / 4, way.job.seed);
    const uint32_t random[4] = {words.a, words.b, words.c, words.d};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if constexpr (output == Output::codes) {
        codes[i + j] = way.code(v[i + j], scale, random[j]);
      } else {
        out[i + j] = way.value(v[i + j], scale, random[j]);
      }
    }
  }
  if constexpr (output == Output::codes) {
    store_codes<T>(codes, y, pack, way.job.packed);
  } else {
    store_pack(y, pack, packed<T>(out));
  }
}

template <class Scale>
__device__ __forceinline__ void write_scale(const Outputs& out, const Scale& scale, int64_t number) {
  out.scale[number] = scale.beside;
  out.zero_point[number] = scale.zero;
}

// Groups of 1, 2, 4, ... 32 packs, which neighbouring lanes hold: many groups to a warp. Where scales are known, groups
// may be any number of packs, `log_packs` being -1 where that is no power of two; and a single one may have `left`
// elements behind its last pack.
template <class T, class Way, Output output, int at_once>
__global__ void __launch_bounds__(kThreads, 4)
    narrow_groups(const __grid_constant__ Job<typename Way::Element> job, const __grid_constant__ Outputs outputs,
                  int log_packs, int64_t packs_in_group, int64_t packs, int left) {
  const OfTensor tensor = of_tensor(job);
  const Way way(job, tensor);
  using Reduced = typename Way::Reduced;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * (kThreads * at_once) + threadIdx.x;
  uint4 words[at_once];
#pragma unroll
  for (int k = 0; k < at_once; ++k) {
    const int64_t pack = first + k * kThreads;
    words[k] = pack < packs ? load_pack(job.x, pack) : uint4{};
  }
#pragma unroll
  for (int k = 0; k < at_once; ++k) {
    const int64_t pack = first + k * kThreads;
    float v[kPack<T>];
    unpack<T>(words[k], v);
    Reduced reduced = nothing_of(Reduced{});
    if (job.one_range) {
      reduced = whole_range(tensor.range, Reduced{});
    } else if (job.scale == nullptr) {
#pragma unroll
      for (int i = 0; i < kPack<T>; ++i) reduced = joined(reduced, one_of(v[i], Reduced{}));
      reduced = over_lanes(reduced, 1 << log_packs);
    }
    if (pack >= packs) continue;
    const int64_t number = log_packs < 0 ? pack / packs_in_group : pack >> log_packs;
    const auto scale = way.scale(reduced, number);
    if constexpr (output == Output::scales) {
      if (number << log_packs == pack) write_scale(outputs, scale, number);
    } else {
      finish_pack<T, Way, output>(way, v, scale, job.x, job.y, pack);
    }
  }
  if constexpr (output == Output::scales) {
    if (blockIdx.x == 0 && threadIdx.x == 0) outputs.level[0] = tensor.scale;
  } else if (blockIdx.x == 0 && static_cast<int>(threadIdx.x) < left) {
    const auto exact = way.for_any();
    using Exact = std::decay_t<decltype(exact)>;
    const int64_t at = packs * kPack<T> + threadIdx.x;
    const auto scale = exact.scale(whole_range(tensor.range, typename Exact::Reduced{}), 0);
    const auto random = [&](int64_t place) {
      return exact.is_random() ? random_word(static_cast<uint64_t>(place), job.seed) : 0u;
    };
    const T* x = static_cast<const T*>(job.x);
    if constexpr (output != Output::codes) {
      from_float(exact.value(to_float(x[at]), scale, random(at)), static_cast<T*>(job.y)[at]);
    } else if (!job.packed) {
      static_cast<uint8_t*>(job.y)[at] = exact.code(to_float(x[at]), scale, random(at));
    } else if (at % 2 == 0) {  // there are as many again
      const uint32_t lower = exact.code(to_float(x[at]), scale, random(at));
      const uint32_t upper = exact.code(to_float(x[at + 1]), scale, random(at + 1));
      static_cast<uint8_t*>(job.y)[at / 2] = static_cast<uint8_t>((lower & 15u) | upper << 4);
    }
  }
}

// Groups of up to `packs_each` packs for each thread of a team, a row of threads.
template <class T, class Way, Output output, int packs_each>
__global__ void __launch_bounds__(Way::kMostThreads, 1)
    wide_groups(const __grid_constant__ Job<typename Way::Element> job, const __grid_constant__ Outputs outputs,
                int packs_in_group, int64_t groups) {
  const OfTensor tensor = of_tensor(job);
  const Way way(job, tensor);
  using Reduced = typename Way::Reduced;
  const int64_t number = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if constexpr (output == Output::scales) {
    if (number == 0 && threadIdx.x == 0) outputs.level[0] = tensor.scale;
  }
  if (number >= groups) return;  // a whole warp, of a team that is one
  const int64_t first = number * packs_in_group;
  uint4 words[packs_each];  // all asked for before any is waited for
#pragma unroll
  for (int k = 0; k < packs_each; ++k) {
    const int place = static_cast<int>(threadIdx.x + k * blockDim.x);
    words[k] = place < packs_in_group ? load_pack(job.x, first + place) : uint4{};
  }
  Reduced reduced = nothing_of(Reduced{});
#pragma unroll
  for (int k = 0; k < packs_each; ++k) {
    const int place = static_cast<int>(threadIdx.x + k * blockDim.x);
    if (place < packs_in_group) {
      float v[kPack<T>];
      unpack<T>(words[k], v);
#pragma unroll
      for (int i = 0; i < kPack<T>; ++i) reduced = joined(reduced, one_of(v[i], Reduced{}));
    }
  }
  if (job.scale == nullptr) reduced = over_team(reduced);
  const auto scale = way.scale(reduced, number);
  if constexpr (output == Output::scales) {
    if (threadIdx.x == 0) write_scale(outputs, scale, number);
  } else {
#pragma unroll
    for (int k = 0; k < packs_each; ++k) {
      const int place = static_cast<int>(threadIdx.x + k * blockDim.x);
      float v[kPack<T>];  // again: to keep them would take the registers of more threads
      unpack<T>(words[k], v);
      if (place < packs_in_group) finish_pack<T, Way, output>(way, v, scale, job.x, job.y, first + place);
    }
  }
}

// The number of the group that an element is in.
__device__ __forceinline__ int64_t group_at(const Layout& layout, int64_t row, int64_t column) {
  const int64_t matrix = row / layout.matrix_rows, band = (row - matrix * layout.matrix_rows) / layout.block_rows;
  return (matrix * layout.bands_per_matrix() + band) * layout.groups_per_row() + column / layout.group;
}

// The elements of a group of any layout: rows and columns, the last ones of which may be fewer.
struct Place {
  int64_t row, rows, column, columns;
};
__device__ __forceinline__ Place place_of_group(const Layout& layout, int64_t number) {
  const int64_t per_row = layout.groups_per_row(), bands = layout.bands_per_matrix();
  const int64_t band = number / per_row, column = (number - band * per_row) * layout.group;
  const int64_t matrix = band / bands, row = (band - matrix * bands) * layout.block_rows;
  const int64_t rows = layout.matrix_rows - row, columns = layout.axis - column;
  return {matrix * layout.matrix_rows + row, rows < layout.block_rows ? rows : layout.block_rows, column,
          columns < layout.group ? columns : layout.group};
}

// Any layout, alignment and stride, an element at a time: memory is read twice. With one scale, which is known, groups
// are pieces of any length.
template <class T, class Way, Output output>
__global__ void __launch_bounds__(kThreads, 4)
    any_groups(const __grid_constant__ Job<typename Way::Element> job, const __grid_constant__ Outputs outputs,
               int64_t groups, bool one_scale) {
  const OfTensor tensor = of_tensor(job);
  const Way way(job, tensor);
  using Reduced = typename Way::Reduced;
  const int64_t number = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if constexpr (output == Output::scales) {
    if (number == 0 && threadIdx.x == 0) outputs.level[0] = tensor.scale;
  }
  if (number >= groups) return;
  const Place place = place_of_group(job.layout, number);
  const T* x = static_cast<const T*>(job.x) + place.row * job.x_stride + place.column;
  Reduced reduced = nothing_of(Reduced{});
  if (job.one_range) {
    reduced = whole_range(tensor.range, Reduced{});
  } else if (job.scale == nullptr) {
    for (int64_t row = 0; row < place.rows; ++row) {
      for (int64_t i = threadIdx.x; i < place.columns; i += blockDim.x) {
        reduced = joined(reduced, one_of(to_float(x[row * job.x_stride + i]), Reduced{}));
      }
    }
    reduced = over_team(reduced);
  }
  const auto scale = way.scale(reduced, one_scale ? 0 : number);
  if constexpr (output == Output::scales) {
    if (threadIdx.x == 0) write_scale(outputs, scale, number);
  } else {
    for (int64_t row = 0; row < place.rows; ++row) {
#pragma unroll 1
      for (int64_t i = threadIdx.x; i < place.columns; i += blockDim.x) {
        const int64_t at = (place.row + row) * job.layout.axis + place.column + i;
        const uint32_t random = way.is_random() ? random_word(static_cast<uint64_t>(at), job.seed) : 0u;
        from_float(way.value(to_float(x[row * job.x_stride + i]), scale, random), static_cast<T*>(job.y)[at]);
      }
    }
  }
}

// Codes of any layout, a byte to a thread: groups of odd length have some in common.
template <class T, class Way>
__global__ void __launch_bounds__(kThreads)
    any_codes(const __grid_constant__ Job<typename Way::Element> job, int64_t bytes_in_row, int64_t bytes) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= bytes) return;
  const Way way(job, OfTensor{});
  const int64_t row = at / bytes_in_row, first = (at - row * bytes_in_row) * (job.packed ? 2 : 1);
  uint32_t both = 0;
#pragma unroll 1
  for (int64_t column = first; column < first + (job.packed ? 2 : 1) && column < job.layout.axis; ++column) {
    const auto scale = way.scale(typename Way::Reduced{}, group_at(job.layout, row, column));
    const uint64_t place = static_cast<uint64_t>(row * job.layout.axis + column);
    const uint32_t random = way.is_random() ? random_word(place, job.seed) : 0u;
    const uint32_t code = way.code(to_float(static_cast<const T*>(job.x)[row * job.x_stride + column]), scale, random);
    both |= job.packed ? (code & 15u) << (column - first) * 4 : code;
  }
  static_cast<uint8_t*>(job.y)[at] = static_cast<uint8_t>(both);
}

}  // namespace qscale::cuda
