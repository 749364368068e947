// The nearest of sixteen values for sixteen floats at once, with the permutations that the compiler does not find.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "numerics/dialects/codebook_search.h"

namespace qscale::cpu {
namespace {

constexpr int64_t kLanes = 16;

#if defined(__AVX512F__)
// A permutation uses the low four bits of each index: those of the node, and after four steps of the value.
QSCALE_HD void to_nearest(float* v, const Codebook& book) {
  const __m512 values = _mm512_loadu_ps(book.values), tree = _mm512_loadu_ps(book.tree), a = _mm512_loadu_ps(v);
  const __m512i one = _mm512_set1_epi32(1);
  __m512i node = one;
  for (int level = 0; level < 4; ++level) {
    const __mmask16 above = _mm512_cmp_ps_mask(a, _mm512_permutexvar_ps(node, tree), _CMP_GT_OQ);
    node = _mm512_add_epi32(node, node);
    node = _mm512_mask_add_epi32(node, above, node, one);
  }
  _mm512_storeu_ps(v, _mm512_permutexvar_ps(node, values));
}
#elif defined(__AVX2__)
// A permutation uses the low three bits of each index: nodes 1 to 7 are in the lower half of the tree, 8 to 15 in the
// upper; bit 3 of the node, moved to the sign, picks the half of the values.
QSCALE_HD void to_nearest(float* v, const Codebook& book) {
  const __m256 trees[2] = {_mm256_loadu_ps(book.tree), _mm256_loadu_ps(book.tree + 8)};
  const __m256 low = _mm256_loadu_ps(book.values), high = _mm256_loadu_ps(book.values + 8);
  for (int64_t half = 0; half < kLanes; half += 8) {
    const __m256 a = _mm256_loadu_ps(v + half);
    __m256i node = _mm256_set1_epi32(1);
    for (int level = 0; level < 4; ++level) {
      const __m256 border = _mm256_permutevar8x32_ps(trees[level / 3], node);
      const __m256i above = _mm256_castps_si256(_mm256_cmp_ps(a, border, _CMP_GT_OQ));
      node = _mm256_sub_epi32(_mm256_add_epi32(node, node), above);
    }
    const __m256 found = _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, node), _mm256_permutevar8x32_ps(high, node),
                                          _mm256_castsi256_ps(_mm256_slli_epi32(node, 28)));
    _mm256_storeu_ps(v + half, found);
  }
}
#else
QSCALE_HD void to_nearest(float* v, const Codebook& book) {
  for (int64_t i = 0; i < kLanes; ++i) v[i] = dialects::nearest(v[i], book);
}
#endif

}  // namespace
}  // namespace qscale::cpu
