// What the emulated CUDA headers ask of the scheduler (emulator.cpp).
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulator {

// Where a thread is: the intrinsic and the line of the kernel that calls it.
struct Site {
  const char* what;
  const char* file;
  int line;
};

struct Lanes {
  uint64_t value[32];
};

struct Counts {
  int set;  // predicates that are not zero
  int all;
};

void* dynamic_shared();

// Waits for every thread of the block. What they wrote before is ordered before what they read after.
Counts block_barrier(bool predicate, Site site);

// Waits for the lanes of the mask and gives what each brought; 0 for the others. As on the device it orders memory only
// where that is said (__syncwarp): shuffles, votes and reductions exchange values and order nothing else.
Lanes gather(unsigned mask, uint64_t value, bool orders_memory, Site site);

// A place where other threads may come between: before each atomic operation, which is relaxed as on the device.
void atomic_point(const void* address, bool is_float, Site site);
void fence();

int lane();
[[noreturn]] void fail(const char* problem, Site site);

// One launch. `run` calls the kernel with its arguments, and is what each thread does.
struct Launch {
  unsigned grid[3], block[3];
  size_t shared_bytes;
  const void* kernel;
  void (*run)(const void* arguments);
  const void* arguments;
};

int run(const Launch& launch);  // a cudaError_t, kept for cudaGetLastError

}  // namespace emulator

// For tests, by ctypes too. The order of threads and blocks and the junk in shared memory follow from the seed.
extern "C" {
void emulator_seed(uint64_t seed);
const char* emulator_report();            // what the last launch that failed did wrong
unsigned long long emulator_float_atomics();  // how many ran: their order, so their sum, is left to chance
unsigned long long emulator_switches();
}
