// Groups of CPU tensors: how they are cut, shared out to threads, and given scales.
#pragma once

#include <algorithm>
#include <vector>

#include "bindings/fake_quant_ops.h"

namespace qscale {
namespace {

// Where rows are whole groups, nothing is lost by taking them as one: tiles may then run on from row to row.
inline Layout without_rows(const Layout& layout, int64_t count) {
  const bool whole = layout.block_rows == 1 && layout.axis % layout.group == 0;
  return whole ? Layout{count, layout.group} : layout;
}

template <class Run>
void over_groups(int64_t groups, int64_t elements_each, const Run& run) {
  const int64_t grain = std::max<int64_t>(1, kElementsPerThread / elements_each);
  if (groups <= grain) {
    run(0, groups);
  } else {
    torch::stable::parallel_for(0, groups, grain, run);
  }
}

// Scales or zero points of the caller, one for each group: fewer are repeated, as those are that all rows have in common.
struct PerGroup {
  const float* data = nullptr;
  std::vector<float> repeated;

  PerGroup(const char* op, const char* what, const Tensor& t, int64_t groups) {
    const int64_t count = t.numel();
    const bool fits = count == groups || (count > 0 && groups % count == 0);
    STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float && fits && t.is_contiguous(), op, ": ", what, " has dtype ",
                    torch::headeronly::toString(t.scalar_type()), " and ", count,
                    " elements; wanted contiguous float32, one for each of ", groups, " groups, or a divisor of that");
    data = static_cast<const float*>(t.const_data_ptr());
    if (count == groups) return;
    repeated.resize(static_cast<size_t>(groups));
    for (int64_t at = 0; at < groups; at += count) std::copy_n(data, count, repeated.data() + at);
    data = repeated.data();
  }
};

// One scale for all elements: groups are then pieces of rows, for threads to share.
inline bool is_one(const Tensor& scale, const std::optional<Tensor>& zero_point) {
  return scale.numel() == 1 && (!zero_point || zero_point->numel() == 1);
}
constexpr int64_t kPiece = 4096;

}  // namespace
}  // namespace qscale
