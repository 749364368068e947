// CUDA for tests without a GPU: kernels compiled by the C++ compiler, each thread of a block a fibre of one CPU thread.
//
// Threads run one after the other, from one barrier or warp collective to the next, in an order that the seed shuffles;
// blocks too, one at a time. So a kernel that lacks a barrier gives other results with another seed. A launch returns
// cudaErrorLaunchFailure, and emulator_report() says which thread did what where, when
//   - threads wait at different barriers, or for one that has returned;
//   - a lane's mask lacks the lane itself, or names one that returned, does not exist or never comes; a shuffle reads
//     a lane that is not of the mask;
//   - no thread can go on.
// Three kinds of build (build.py) find more: "plain" nothing; "address" accesses out of bounds, misaligned vectors
// and undefined behaviour; "thread" data races, also those that leave the result alone, between threads without
// a barrier between them and between blocks. Shared memory starts as junk that the seed chooses.
//
// Stricter than a device: a thread that returned, or never was, counts as missing from barriers and masks; a collective
// has one site; shuffles, votes and reductions order no memory (CUDA promises that of __syncwarp alone); __activemask()
// names the caller alone. More lenient: blocks run one at a time, so one cannot wait for another; a thread that spins
// on an atomic lets others run. Not seen: a race between blocks that run an even number of blocks apart (other seeds run
// them otherwise), stale data that a device may read, NaN bits of plain float arithmetic, which are the CPU's.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>  // libstdc++ writes __noinline__ in here, which below is a macro
#include <tuple>
#include <type_traits>
#include <utility>

#define QSCALE_CUDA_EMULATOR 1

#define __global__
#define __device__
#define __host__
#define __constant__ __attribute__((unused))
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)
#define __maxnreg__(registers)
#if defined(QSCALE_EMULATOR_THREAD)
// A static array is one address for all blocks, so that every two of them would seem to race.
#define __shared__ static_assert(false, "static __shared__ cannot be checked for races: use dynamic_shared<T>()");
#else
#define __shared__ static
#endif

#include "emulator.h"
#include "vector_types.h"

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
extern const int warpSize;

#include "device_arithmetic.h"
#include "device_memory.h"
#include "device_threads.h"
#include "host_runtime.h"
