// Tables of sixteen values for sixteen elements at once, with the permutations that the compiler does not find.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "numerics/dialects/codebook_search.h"

namespace qscale::cpu {
namespace {

constexpr int64_t kLanes = 16;

#if defined(__AVX512F__)
// A permutation uses the low four bits of each index: those of the node, and after four steps of the place.
QSCALE_HD __m512i nodes_of(const float* v, const Codebook& book) {
  const __m512 tree = _mm512_loadu_ps(book.tree), a = _mm512_loadu_ps(v);
  const __m512i one = _mm512_set1_epi32(1);
  __m512i node = one;
  for (int level = 0; level < 4; ++level) {
    const __mmask16 above = _mm512_cmp_ps_mask(a, _mm512_permutexvar_ps(node, tree), _CMP_GT_OQ);
    node = _mm512_add_epi32(node, node);
    node = _mm512_mask_add_epi32(node, above, node, one);
  }
  return node;
}
QSCALE_HD void to_nearest(float* v, const Codebook& book) {
  _mm512_storeu_ps(v, _mm512_permutexvar_ps(nodes_of(v, book), _mm512_loadu_ps(book.values)));
}
QSCALE_HD void places_of(const float* v, const Codebook& book, uint8_t* places) {
  const __m512i place = _mm512_and_si512(nodes_of(v, book), _mm512_set1_epi32(15));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(places), _mm512_cvtepi32_epi8(place));
}
#elif defined(__AVX2__)
// Of eight. A permutation uses the low three bits of each index: nodes 1 to 7 are in the lower half of the tree, 8 to 15
// in the upper.
QSCALE_HD __m256i nodes_of(const float* v, const Codebook& book) {
  const __m256 trees[2] = {_mm256_loadu_ps(book.tree), _mm256_loadu_ps(book.tree + 8)};
  const __m256 a = _mm256_loadu_ps(v);
  __m256i node = _mm256_set1_epi32(1);
  for (int level = 0; level < 4; ++level) {
    const __m256 border = _mm256_permutevar8x32_ps(trees[level / 3], node);
    const __m256i above = _mm256_castps_si256(_mm256_cmp_ps(a, border, _CMP_GT_OQ));
    node = _mm256_sub_epi32(_mm256_add_epi32(node, node), above);
  }
  return node;
}
// Bit 3 of a place, moved to the sign, picks the half of the values.
QSCALE_HD __m256 values_at(__m256i places, const float* values) {
  const __m256 low = _mm256_loadu_ps(values), high = _mm256_loadu_ps(values + 8);
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, places), _mm256_permutevar8x32_ps(high, places),
                          _mm256_castsi256_ps(_mm256_slli_epi32(places, 28)));
}
QSCALE_HD void to_nearest(float* v, const Codebook& book) {
  for (int64_t half = 0; half < kLanes; half += 8) {
    _mm256_storeu_ps(v + half, values_at(nodes_of(v + half, book), book.values));
  }
}
QSCALE_HD void places_of(const float* v, const Codebook& book, uint8_t* places) {
  const __m256i fifteen = _mm256_set1_epi32(15);
  const __m256i words = _mm256_packus_epi32(_mm256_and_si256(nodes_of(v, book), fifteen),
                                            _mm256_and_si256(nodes_of(v + 8, book), fifteen));
  const __m256i in_order = _mm256_permute4x64_epi64(words, 0xd8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(places), _mm_packus_epi16(_mm256_castsi256_si128(in_order),
                                                                        _mm256_extracti128_si256(in_order, 1)));
}
#else
QSCALE_HD void to_nearest(float* v, const Codebook& book) {
  for (int64_t i = 0; i < kLanes; ++i) v[i] = dialects::nearest(v[i], book);
}
QSCALE_HD void places_of(const float* v, const Codebook& book, uint8_t* places) {
  for (int64_t i = 0; i < kLanes; ++i) places[i] = static_cast<uint8_t>(codebook_index(v[i], book));
}
#endif

}  // namespace
}  // namespace qscale::cpu
