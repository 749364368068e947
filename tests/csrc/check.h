// The little that the unit tests need: a check that prints both values and counts failures.
#pragma once

#include <cstdint>
#include <cstdio>

extern int failures;

inline void check_equal(uint32_t got, uint32_t wanted, const char* what, long long where) {
  if (got == wanted) return;
  if (++failures <= 20) std::printf("%s at %lld: got %#x, wanted %#x\n", what, where, got, wanted);
}

void test_numerics();
void test_fake_quant();
void test_hadamard();
