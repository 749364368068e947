// Barriers and warp collectives. Each takes the line of its call as default arguments.
#pragma once

#include "emulator.h"

#define EMULATOR_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(EMULATOR_SITE) { emulator::block_barrier(false, {"__syncthreads", file, line}); }
inline int __syncthreads_or(int predicate, EMULATOR_SITE) {
  return emulator::block_barrier(predicate != 0, {"__syncthreads_or", file, line}).set > 0;
}
inline int __syncthreads_and(int predicate, EMULATOR_SITE) {
  const emulator::Counts counts = emulator::block_barrier(predicate != 0, {"__syncthreads_and", file, line});
  return counts.set == counts.all;
}
inline int __syncthreads_count(int predicate, EMULATOR_SITE) {
  return emulator::block_barrier(predicate != 0, {"__syncthreads_count", file, line}).set;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, EMULATOR_SITE) {
  emulator::gather(mask, 0, true, {"__syncwarp", file, line});
}

struct __half;
struct __half2;
struct __nv_bfloat16;
struct __nv_bfloat162;

namespace emulator {

template <class T, class... Others>
inline constexpr bool is_one_of = (std::is_same_v<T, Others> || ...);

template <class T>
uint64_t packed(T value) {
  static_assert(is_one_of<T, int, unsigned, long, unsigned long, long long, unsigned long long, float, double, __half,
                          __half2, __nv_bfloat16, __nv_bfloat162>,
                "not a type that CUDA shuffles");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  return bits;
}

template <class T>
T unpacked(uint64_t bits) {
  T value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// `from` as PTX computes it; outside of the segment, a lane gets its own value.
template <class T>
T shuffled(unsigned mask, T value, int from, bool inside, int width, Site site) {
  if (width < 1 || width > 32 || (width & (width - 1)) != 0) fail("the width is no power of two up to 32", site);
  const int source = inside ? from : lane();
  const Lanes lanes = gather(mask, packed(value), false, site);
  if ((mask >> source & 1u) == 0) fail("reads from a lane that is not of its mask", site);
  return unpacked<T>(lanes.value[source]);
}

template <class T, class Join>
T reduced(unsigned mask, T value, Join join, Site site) {
  const Lanes lanes = gather(mask, packed(value), false, site);
  T total = value;
  bool first = true;
  for (int i = 0; i < 32; ++i) {
    if ((mask >> i & 1u) == 0) continue;
    total = first ? unpacked<T>(lanes.value[i]) : join(total, unpacked<T>(lanes.value[i]));
    first = false;
  }
  return total;
}

inline unsigned voted(unsigned mask, bool predicate, Site site) {
  const Lanes lanes = gather(mask, predicate, false, site);
  unsigned votes = 0;
  for (int i = 0; i < 32; ++i) votes |= static_cast<unsigned>(lanes.value[i]) << i;
  return votes;
}

}  // namespace emulator

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMULATOR_SITE) {
  const int first = emulator::lane() & -width;
  return emulator::shuffled(mask, value, first | (source & (width - 1)), true, width, {"__shfl_sync", file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATOR_SITE) {
  const int from = emulator::lane() - static_cast<int>(delta & 31u);
  const bool inside = from >= (emulator::lane() & -width);
  return emulator::shuffled(mask, value, from, inside, width, {"__shfl_up_sync", file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATOR_SITE) {
  const int from = emulator::lane() + static_cast<int>(delta & 31u);
  const bool inside = from <= (emulator::lane() | (width - 1));
  return emulator::shuffled(mask, value, from, inside, width, {"__shfl_down_sync", file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, EMULATOR_SITE) {
  const int from = emulator::lane() ^ (lanes & 31);
  const bool inside = from <= (emulator::lane() | (width - 1));
  return emulator::shuffled(mask, value, from, inside, width, {"__shfl_xor_sync", file, line});
}

inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATOR_SITE) {
  return emulator::voted(mask, predicate != 0, {"__ballot_sync", file, line});
}
inline int __any_sync(unsigned mask, int predicate, EMULATOR_SITE) {
  return emulator::voted(mask, predicate != 0, {"__any_sync", file, line}) != 0;
}
inline int __all_sync(unsigned mask, int predicate, EMULATOR_SITE) {
  return emulator::voted(mask, predicate != 0, {"__all_sync", file, line}) == mask;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, EMULATOR_SITE) {
  const emulator::Lanes lanes =
      emulator::gather(mask, emulator::packed(value), false, {"__match_any_sync", file, line});
  unsigned equal = 0;
  for (int i = 0; i < 32; ++i) {
    if ((mask >> i & 1u) != 0 && lanes.value[i] == emulator::packed(value)) equal |= 1u << i;
  }
  return equal;
}
inline unsigned __activemask() { return 1u << emulator::lane(); }

#define EMULATOR_REDUCE(NAME, T, EXPRESSION)                                                                     \
  inline T NAME(unsigned mask, T value, EMULATOR_SITE) {                                                         \
    return emulator::reduced(mask, value, [](T a, T b) -> T { return EXPRESSION; }, {#NAME, file, line});        \
  }
EMULATOR_REDUCE(__reduce_max_sync, unsigned, a > b ? a : b)
EMULATOR_REDUCE(__reduce_max_sync, int, a > b ? a : b)
EMULATOR_REDUCE(__reduce_min_sync, unsigned, a < b ? a : b)
EMULATOR_REDUCE(__reduce_min_sync, int, a < b ? a : b)
EMULATOR_REDUCE(__reduce_add_sync, unsigned, a + b)
EMULATOR_REDUCE(__reduce_add_sync, int, static_cast<int>(static_cast<unsigned>(a) + static_cast<unsigned>(b)))
EMULATOR_REDUCE(__reduce_and_sync, unsigned, a & b)
EMULATOR_REDUCE(__reduce_or_sync, unsigned, a | b)
EMULATOR_REDUCE(__reduce_xor_sync, unsigned, a ^ b)
#undef EMULATOR_REDUCE
