// The little that the unit tests need: checks that print what differs and where, numbers at random, instruction sets.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/kernels.h"
#include "numerics/float16.h"

extern int failures;
extern std::string context;  // what is under test, for messages

inline void fail(const char* what, long long where, uint32_t got, uint32_t wanted) {
  if (++failures > 20) return;
  std::printf("%s: %s at %lld: got %#x, wanted %#x\n", context.c_str(), what, where, got, wanted);
}

inline void check_equal(uint32_t got, uint32_t wanted, const char* what, long long where) {
  if (got != wanted) fail(what, where, got, wanted);
}

inline uint32_t pattern(float v) { return qscale::bits_of(v); }
inline uint32_t pattern(uint8_t v) { return v; }
template <class T>
uint32_t pattern(T v) {
  return v.bits;
}

inline bool is_nan_of(uint8_t) { return false; }
template <class T>
bool is_nan_of(T v) {
  return std::isnan(qscale::to_float(v));
}

// Every bit, but for those of a NaN.
template <class T>
void check_same(T got, T wanted, const char* what, long long where) {
  if (pattern(got) == pattern(wanted) || (is_nan_of(got) && is_nan_of(wanted))) return;
  fail(what, where, pattern(got), pattern(wanted));
}

// Numbers at random, the same in every run: splitmix64.
class Draws {
 public:
  explicit Draws(uint64_t seed) : state_(seed) {}
  uint32_t word() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return static_cast<uint32_t>((z ^ z >> 31) >> 32);
  }
  int64_t below(int64_t end) { return static_cast<int64_t>(word() % static_cast<uint64_t>(end)); }
  int64_t between(int64_t first, int64_t last) { return first + below(last - first + 1); }
  float unit() { return static_cast<float>(static_cast<int32_t>(word())) * 0x1p-31f; }  // from -1 to 1

 private:
  uint64_t state_;
};

// Those that this machine runs.
inline const std::vector<const char*>& instruction_sets() {
  static const std::vector<const char*> found = [] {
    std::vector<const char*> all;
    for (const char* isa : {"plain", "avx2", "avx512"}) {
      try {
        qscale::cpu::use_isa(isa);
        std::printf("instruction set %s\n", isa);
        all.push_back(isa);
      } catch (const std::invalid_argument& refused) {
        std::printf("skipped: %s\n", refused.what());
      }
    }
    return all;
  }();
  return found;
}

template <class Run>
void on_each_isa(Run run) {
  const std::string outer = context;
  for (const char* isa : instruction_sets()) {
    qscale::cpu::use_isa(isa);
    context = outer + " " + isa;
    run();
  }
  context = outer;
}

void test_numerics();
void test_scaling();
void test_fake_quant();
void test_hadamard();
void test_feedback();
void test_dialects();
