// What the sanitizers are told of fibres. Nothing, where none watches.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <new>

#include "cuda_runtime.h"

#if defined(QSCALE_EMULATOR_ADDRESS)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#elif defined(QSCALE_EMULATOR_THREAD)
#include <sanitizer/tsan_interface.h>
#endif

namespace emulator {
namespace {

// The race checker's view. Nothing is ordered by a switch of fibres, only by what is passed on here: knowledge of all
// that came before goes from a release to the acquires of the same address.
namespace races {
#if defined(QSCALE_EMULATOR_THREAD)
constexpr int fibre_sets = 2;  // in turns, for a fibre knows what came before it in its last block
void* create() { return __tsan_create_fiber(0); }
void* current() { return __tsan_get_current_fiber(); }
void name(void* fibre, uint3 thread) {
  char text[64];
  snprintf(text, sizeof text, "block (%u, %u, %u) thread (%u, %u, %u)", blockIdx.x, blockIdx.y, blockIdx.z, thread.x,
           thread.y, thread.z);
  __tsan_set_fiber_name(fibre, text);
}
void enter(void* fibre) { __tsan_switch_to_fiber(fibre, __tsan_switch_to_fiber_no_sync); }
void release(const void* address) { __tsan_release(const_cast<void*>(address)); }
void acquire(const void* address) { __tsan_acquire(const_cast<void*>(address)); }
#else
constexpr int fibre_sets = 1;
void* create() { return nullptr; }
void* current() { return nullptr; }
void name(void*, uint3) {}
void enter(void*) {}
void release(const void*) {}
void acquire(const void*) {}
#endif
}  // namespace races

// The address checker's view: which stack is in use, and where it lies.
namespace stacks {
constexpr size_t bytes = 256 * 1024;
#if defined(QSCALE_EMULATOR_ADDRESS)
void leave(void** kept, const void* bottom, size_t size) { __sanitizer_start_switch_fiber(kept, bottom, size); }
void arrive(void* kept, const void** bottom, size_t* size) { __sanitizer_finish_switch_fiber(kept, bottom, size); }
void forget(void* stack) { __asan_unpoison_memory_region(stack, bytes); }
#else
void leave(void**, const void*, size_t) {}
void arrive(void*, const void**, size_t*) {}
void forget(void*) {}
#endif

// A page that may not be touched lies below.
char* allocate() {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const int how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* memory = mmap(nullptr, bytes + page, PROT_READ | PROT_WRITE, how, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0) throw std::bad_alloc();
  return static_cast<char*>(memory) + page;
}
}  // namespace stacks

}  // namespace
}  // namespace emulator
