// Which kernel serves a job, and how many threads it takes.
#pragma once

#include "cuda/fake_quant.cuh"
#include "cuda/gradients.cuh"
#include "cuda/grids.h"

namespace qscale::cuda {

constexpr int kAtOnce = 2;     // packs of a thread, of different groups,
constexpr int kPacksEach = 4;  // or of one
constexpr int kMostTeam = 1024;
constexpr int kTeams = kThreads / kWarp;

// How a job lies in memory: whether its groups are whole packs one behind the other, and how many of each there are.
struct Shape {
  int64_t count, groups, packs_in_group;
  bool is_known;   // what the scales follow from, before the elements are read
  bool one_scale;  // for all elements, and known
  bool is_few;  // packs to a group: 1, 2, 4, ... 32
  bool is_narrow, is_wide;
};

template <class T, class Element>
Shape shape_of(const Job<Element>& job, int64_t rows, bool y_is_aligned) {
  const Layout& layout = job.layout;
  Shape shape{};
  shape.count = rows * layout.axis;
  shape.groups = groups_of(layout, rows);
  shape.packs_in_group = layout.group / kPack<T>;
  shape.is_known = job.scale != nullptr || job.one_range;
  shape.one_scale = shape.is_known && shape.groups == 1;
  const bool whole_bytes = !job.packed || layout.axis % 2 == 0;
  const bool dense = job.x_stride == layout.axis && is_aligned(job.x) && y_is_aligned && whole_bytes;
  const bool even = layout.block_rows == 1 && layout.axis % layout.group == 0 && layout.group % kPack<T> == 0;
  shape.is_few = dense && even && is_power_of_two(shape.packs_in_group) && shape.packs_in_group <= kWarp;
  shape.is_narrow = shape.is_few || (dense && (shape.one_scale || (even && shape.is_known)));
  shape.is_wide = dense && even && !shape.is_narrow && shape.packs_in_group <= kMostTeam * kPacksEach;
  return shape;
}

template <class T, class Way, Output output, class Element>
cudaError_t run_narrow(const Job<Element>& job, const Shape& shape, const Outputs& out, cudaStream_t stream) {
  const int64_t packs = shape.count / kPack<T>, in_group = shape.one_scale ? packs + 1 : shape.packs_in_group;
  const int left = static_cast<int>(shape.count - packs * kPack<T>);
  const int log_packs = is_power_of_two(in_group) ? log2_of(in_group) : -1;
  const unsigned blocks = blocks_for(packs > 0 ? packs : 1, kThreads * kAtOnce);
  return launch(narrow_groups<T, Way, output, kAtOnce>, dim3(blocks), dim3(kThreads), sizeof(Shared), stream, job, out,
                log_packs, in_group, packs, left);
}

template <class T, class Way, Output output, class Element>
cudaError_t run_wide(const Job<Element>& job, const Shape& shape, const Outputs& out, cudaStream_t stream) {
  const int packs = static_cast<int>(shape.packs_in_group);
  const bool by_warps = packs <= kWarp * kPacksEach;
  const unsigned needed = blocks_for(packs, kPacksEach), team = by_warps ? kWarp : blocks_for(needed, kWarp) * kWarp;
  const unsigned teams = by_warps ? kTeams : 1;
  return launch(wide_groups<T, Way, output, kPacksEach>, dim3(blocks_for(shape.groups, teams)), dim3(team, teams),
                sizeof(Shared), stream, job, out, packs, shape.groups);
}

template <class T, class Way, Output output, class Element>
cudaError_t run_any(const Job<Element>& job, const Shape& shape, const Outputs& out, cudaStream_t stream) {
  constexpr int64_t piece = 4096, for_a_warp = 1024;
  Job<Element> pieces = job;
  const bool in_pieces = shape.one_scale && output != Output::scales;
  if (in_pieces) pieces.layout = Layout{job.layout.axis, job.layout.axis < piece ? job.layout.axis : piece};
  const int64_t groups = groups_of(pieces.layout, shape.count / job.layout.axis);
  const bool by_warps = pieces.layout.group * pieces.layout.block_rows <= for_a_warp;
  const unsigned team = by_warps ? kWarp : kThreads, teams = by_warps ? kTeams : 1;
  return launch(any_groups<T, Way, output>, dim3(blocks_for(groups, teams)), dim3(team, teams), sizeof(Shared), stream,
                pieces, out, groups, in_pieces);
}

template <class T, class Way, class Element>
cudaError_t run_packs(const Job<Element>& job, const Shape& shape, cudaStream_t stream) {
  if (shape.is_narrow) return run_narrow<T, Way, Output::values>(job, shape, Outputs{}, stream);
  return run_wide<T, Way, Output::values>(job, shape, Outputs{}, stream);
}

template <class Element>
struct QuickRounder;
template <>
struct QuickRounder<IntGrid> {
  template <bool held>
  using Type = QuickInt<held>;
};
template <>
struct QuickRounder<FloatGrid> {
  template <bool held>
  using Type = QuickFloat<held>;
};
template <>
struct QuickRounder<Codebook> {
  template <bool held>
  using Type = QuickCodebook<held>;
};

// The groups' own scales; which of the quick ways there are is asked here, outside the kernels.
template <class T, class Element>
cudaError_t run_quick(const Job<Element>& job, const Shape& shape, cudaStream_t stream) {
  using Held = typename QuickRounder<Element>::template Type<true>;
  using Free = typename QuickRounder<Element>::template Type<false>;
  const Scaling& scaling = job.scaling;
  if constexpr (!std::is_same_v<Element, Codebook>) {
    if (qscale::is_power_of_two(scaling.kind)) return run_packs<T, Quick<Held, 0>>(job, shape, stream);
  }
  if (scaling.kind == ScaleKind::float32 && !may_exceed(job.element, scaling.largest)) {
    if constexpr (std::is_same_v<T, BFloat16>) {
      if (is_all_ones(scaling.largest)) return run_packs<T, Quick<Free, kNewtonStepsOfBFloat16>>(job, shape, stream);
    }
    return run_packs<T, Quick<Free, kNewtonSteps>>(job, shape, stream);
  }
  return run_packs<T, Quick<Held, kNewtonSteps>>(job, shape, stream);
}

template <class Element>
cudaError_t Launches<Element>::values(DType dtype, const Job<Element>& job, int64_t rows, cudaStream_t stream) {
  return with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    using Rounder = typename QuickRounder<Element>::template Type<true>;
    const Shape shape = shape_of<T>(job, rows, is_aligned(job.y));
    const bool is_quick = job.scale == nullptr && Rounder::serves(job.element);
    const int threads = is_quick ? kMostTeam : Plain<Element>::kMostThreads;
    if (!shape.is_narrow && !(shape.is_wide && shape.packs_in_group <= threads * kPacksEach)) {
      return run_any<T, Plain<Element>, Output::values>(job, shape, Outputs{}, stream);
    }
    return is_quick ? run_quick<T>(job, shape, stream) : run_packs<T, Plain<Element>>(job, shape, stream);
  });
}

template <class Element>
cudaError_t Launches<Element>::scales(DType dtype, const Job<Element>& job, int64_t rows, const Outputs& out,
                                      cudaStream_t stream) {
  return with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    const Shape shape = shape_of<T>(job, rows, true);
    if (!shape.is_narrow || shape.is_known) {
      return run_any<T, Plain<Element>, Output::scales>(job, shape, out, stream);
    }
    return run_narrow<T, Plain<Element>, Output::scales>(job, shape, out, stream);
  });
}

template <class Element>
cudaError_t Launches<Element>::codes(DType dtype, const Job<Element>& job, int64_t rows, cudaStream_t stream) {
  return with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    const Shape shape = shape_of<T>(job, rows, is_aligned(job.y));
    if (shape.is_narrow) return run_narrow<T, Plain<Element>, Output::codes>(job, shape, Outputs{}, stream);
    const int64_t in_row = code_bytes(job.layout.axis, job.packed), bytes = rows * in_row;
    return launch(any_codes<T, Plain<Element>>, dim3(blocks_for(bytes, kThreads)), dim3(kThreads), 0, stream, job, in_row,
                  bytes);
  });
}

template <class Element>
cudaError_t Launches<Element>::gradients(DType dtype, const Job<Element>& job, int64_t rows, const Gradients& out,
                                         cudaStream_t stream) {
  return with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    const Shape shape = shape_of<T>(job, rows, is_aligned(out.to.grad) && is_aligned(out.to.grad_x));
    if (shape.is_few) {
      const int64_t packs = shape.count / kPack<T>;
      return launch(narrow_gradients<T, Element>, dim3(blocks_for(packs, kThreads)), dim3(kThreads), 0, stream, job, out,
                    log2_of(shape.packs_in_group), packs);
    }
    const int64_t in_row = chunks_in_row(job.layout), in_group = chunks_in_group(job.layout);
    const int64_t chunks = shape.groups * in_group;
    const cudaError_t done = launch(any_gradients<T, Element>, dim3(blocks_for(chunks, kTeams)), dim3(kThreads), 0,
                                    stream, job, out, in_row, in_group, chunks);
    if (done != cudaSuccess || in_group == 1) return done;
    return launch(add_chunks, dim3(blocks_for(shape.groups, kThreads)), dim3(kThreads), 0, stream, out, in_group,
                  shape.groups);
  });
}

}  // namespace qscale::cuda
