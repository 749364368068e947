// Loads and stores with a caching hint, atomics, fences.
#pragma once

#include "emulator.h"

#define EMULATOR_LOAD(NAME)     \
  template <class T>            \
  T NAME(const T* address) {    \
    return *address;            \
  }
#define EMULATOR_STORE(NAME)            \
  template <class T>                    \
  void NAME(T* address, T value) {      \
    *address = value;                   \
  }
EMULATOR_LOAD(__ldg)
EMULATOR_LOAD(__ldca)
EMULATOR_LOAD(__ldcg)
EMULATOR_LOAD(__ldcs)
EMULATOR_LOAD(__ldcv)
EMULATOR_LOAD(__ldlu)
EMULATOR_STORE(__stcg)
EMULATOR_STORE(__stcs)
EMULATOR_STORE(__stwb)
EMULATOR_STORE(__stwt)
#undef EMULATOR_LOAD
#undef EMULATOR_STORE

inline void __threadfence() { emulator::fence(); }
inline void __threadfence_block() { emulator::fence(); }
inline void __threadfence_system() { emulator::fence(); }

namespace emulator {

// One step for the race checker: no other thread comes between, and none is ordered by it.
template <class T, class Change>
T changed(T* address, Change change, Site site) {
  atomic_point(address, std::is_floating_point_v<T>, site);
  T old;
  __atomic_load(address, &old, __ATOMIC_RELAXED);
  T wanted = change(old);
  __atomic_store(address, &wanted, __ATOMIC_RELAXED);
  return old;
}

}  // namespace emulator

#define EMULATOR_ATOMIC(NAME, T, EXPRESSION)                                                                         \
  inline T NAME(T* address, T value, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {             \
    return emulator::changed(address, [value](T old) -> T { return EXPRESSION; }, {#NAME, file, line});              \
  }
#define EMULATOR_ATOMICS(T)                                              \
  EMULATOR_ATOMIC(atomicMax, T, old > value ? old : value)               \
  EMULATOR_ATOMIC(atomicMin, T, old < value ? old : value)               \
  EMULATOR_ATOMIC(atomicOr, T, old | value)                              \
  EMULATOR_ATOMIC(atomicAnd, T, old & value)                             \
  EMULATOR_ATOMIC(atomicXor, T, old ^ value)                             \
  EMULATOR_ATOMIC(atomicExch, T, (static_cast<void>(old), value))        \
  inline T atomicCAS(T* address, T expected, T wanted, const char* file = __builtin_FILE(),                     \
                     int line = __builtin_LINE()) {                                                             \
    return emulator::changed(address, [=](T old) -> T { return old == expected ? wanted : old; },               \
                             {"atomicCAS", file, line});                                                        \
  }
EMULATOR_ATOMICS(int)
EMULATOR_ATOMICS(unsigned)
EMULATOR_ATOMICS(unsigned long long)
EMULATOR_ATOMIC(atomicAdd, int, static_cast<int>(static_cast<unsigned>(old) + static_cast<unsigned>(value)))
EMULATOR_ATOMIC(atomicAdd, unsigned, old + value)
EMULATOR_ATOMIC(atomicAdd, unsigned long long, old + value)
EMULATOR_ATOMIC(atomicAdd, float, old + value)
EMULATOR_ATOMIC(atomicAdd, double, old + value)
EMULATOR_ATOMIC(atomicExch, float, (static_cast<void>(old), value))
EMULATOR_ATOMIC(atomicInc, unsigned, old >= value ? 0u : old + 1u)
#undef EMULATOR_ATOMICS
#undef EMULATOR_ATOMIC
