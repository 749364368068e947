// The scheduler: fibres, barriers, warps. Compiled without sanitizers, so that only kernels are checked; it tells them
// which fibre runs and what orders what.
#include "cuda_runtime.h"

#include <cxxabi.h>
#include <dlfcn.h>

#include <cstdarg>
#include <cstdio>
#include <memory>
#include <new>
#include <unordered_map>
#include <vector>

#include "checkers.h"


uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
extern const int warpSize = 32;

// Keeps the registers that a call keeps on this stack, and goes on where the other stack stopped.
extern "C" void emulator_switch_stack(void** kept, void* other);
asm(R"(
.text
.hidden emulator_switch_stack
.globl emulator_switch_stack
.type emulator_switch_stack, @function
emulator_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch_stack, .-emulator_switch_stack
)");

namespace emulator {
namespace {

class Random {  // splitmix64
 public:
  void seed(uint64_t value) { state_ = value; }
  uint64_t word() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }
  size_t below(size_t end) { return static_cast<size_t>(word() % end); }
  template <class T>
  void shuffle(T* values, size_t count) {
    for (size_t i = count; i > 1; --i) std::swap(values[i - 1], values[below(i)]);
  }

 private:
  uint64_t state_ = 0;
};

struct Fibre {
  char* stack;
  void* pointer;      // of its stack, while another runs
  void* fake_stack;   // of the address checker
  void* checked;      // of the race checker
  uint3 index;
  int number;         // in the block
  bool returned;
  Site site;          // where it waits
  unsigned mask;      // of the lanes that it waits for, 0 for the whole block
  bool fenced;
  const void* atomics[4];  // addresses last used atomically
  unsigned atomic_count;
};

// Lanes that meet. At most one a lane, so that a warp has room for all of them.
struct Group {
  Site site;
  unsigned mask, arrived;
  int inside;       // those that have not left
  char* order;      // an address of its own for the race checker
  Lanes lanes;
};

struct Warp {
  unsigned exists, returned;
  Group groups[32];
};

// Made anew for each block, so that the race checker does not take one block's barrier for another's.
struct Barrier {
  int64_t order[2];  // addresses, by turns: a thread may reach the next barrier before another has left this one
  Counts counts[2];
  unsigned turn = 0;
  int arrived = 0, set = 0;
  Site site{};
};

struct Block {
  int threads, returned;
  const Fibre* first_returned;
  Fibre* fibres;
  std::unique_ptr<Barrier> barrier;
  std::vector<Warp> warps;
  std::vector<int> ready;
  bool depth_first;  // who may go on does so at once; else anyone
  void* shared;
  unsigned long long atomics;
};

Random chance;
Block block;
const Launch* launch_in_use;
Fibre* current;
std::vector<Fibre> fibres[races::fibre_sets];
void* host_pointer;
const void* host_stack;
size_t host_stack_bytes;
void* host_checked;
char start, finish;  // addresses for the race checker
bool failed;
char report[4096];
unsigned long long switches, float_atomics;
cudaError_t last_error = cudaSuccess;
std::unordered_map<const void*, int> shared_allowed;

constexpr int shared_default = 48 * 1024, shared_most = 227 * 1024, threads_most = 1024;
constexpr unsigned long long atomics_most = 1ull << 22;

// ---- what is said when something is wrong

// Appends to the report.
__attribute__((format(printf, 1, 2))) void say(const char* format, ...) {
  const size_t used = strlen(report);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(report + used, sizeof report - used, format, arguments);
  va_end(arguments);
}

void say_block() {
  Dl_info found{};
  report[0] = '\0';
  if (dladdr(launch_in_use->kernel, &found) != 0 && found.dli_saddr == launch_in_use->kernel) {
    char* readable = abi::__cxa_demangle(found.dli_sname, nullptr, nullptr, nullptr);
    say("%s, ", readable != nullptr ? readable : found.dli_sname);
    free(readable);
  }
  say("block (%u, %u, %u)", blockIdx.x, blockIdx.y, blockIdx.z);
}

void say_thread(const Fibre& fibre) {
  say("thread (%u, %u, %u)", fibre.index.x, fibre.index.y, fibre.index.z);
}

void say_site(const Site& site, unsigned mask) {
  say("%s", site.what);
  if (mask != 0) say(" of mask 0x%08x", mask);
  say(" (%s:%d)", site.file, site.line);
}

bool same(const Site& a, const Site& b) {
  return a.line == b.line && strcmp(a.what, b.what) == 0 && strcmp(a.file, b.file) == 0;
}

// Opens the report of what the current thread does at a site.
void accuse(const Site& site, unsigned mask) {
  say_block();
  say(", ");
  say_thread(*current);
  say(", lane %d, at ", lane());
  say_site(site, mask);
  say(": ");
}

// Nobody can run: says where each waits.
void report_deadlock() {
  say_block();
  say(": no thread can go on;");
  for (int i = 0; i < block.threads; ++i) {
    const Fibre& fibre = block.fibres[i];
    int alike = 0, earlier = 0;
    for (int k = 0; k < block.threads; ++k) {
      const Fibre& other = block.fibres[k];
      const bool both = !fibre.returned && !other.returned && (fibre.mask == 0 || i / 32 == k / 32);
      const bool like = both && fibre.mask == other.mask && same(fibre.site, other.site);
      alike += like;
      earlier += like && k < i;
    }
    if (alike == 0 || earlier > 0) continue;
    say(" %d wait at ", alike);
    say_site(fibre.site, fibre.mask);
    say(", the first of them ");
    say_thread(fibre);
    say(", lane %d;", i % 32);
  }
  if (block.returned > 0) say(" %d have returned", block.returned);
}

// ---- fibres

void to_host(bool for_good) {
  Fibre& mine = *current;
  stacks::leave(for_good ? nullptr : &mine.fake_stack, host_stack, host_stack_bytes);
  races::enter(host_checked);
  emulator_switch_stack(&mine.pointer, host_pointer);
  stacks::arrive(mine.fake_stack, &host_stack, &host_stack_bytes);
}

[[noreturn]] void give_up() {
  failed = true;
  races::release(&finish);
  to_host(true);
  abort();  // nobody comes back
}

void returns() {
  Warp& warp = block.warps[static_cast<size_t>(current->number / 32)];
  const Barrier& barrier = *block.barrier;
  const Group* left = nullptr;
  for (const Group& group : warp.groups) {
    if (group.inside > 0 && group.arrived != group.mask && (group.mask >> lane() & 1u) != 0) left = &group;
  }
  if (barrier.arrived > 0 || left != nullptr) {
    say_block();
    say(", ");
    say_thread(*current);
    say(", lane %d: returned, and is waited for at ", lane());
    left != nullptr ? say_site(left->site, left->mask) : say_site(barrier.site, 0);
    give_up();
  }
  current->returned = true;
  warp.returned |= 1u << lane();
  if (block.returned++ == 0) block.first_returned = current;
}

void fibre_main() {
  stacks::arrive(nullptr, &host_stack, &host_stack_bytes);
  races::acquire(&start);
  launch_in_use->run(launch_in_use->arguments);
  returns();
  races::release(&finish);
  to_host(true);
  abort();
}

void resume(Fibre& fibre) {
  current = &fibre;
  threadIdx = fibre.index;
  ++switches;
  void* fake_stack = nullptr;
  stacks::leave(&fake_stack, fibre.stack, stacks::bytes);
  races::enter(fibre.checked);
  emulator_switch_stack(&host_pointer, fibre.pointer);
  stacks::arrive(fake_stack, nullptr, nullptr);
  current = nullptr;
}

// As if emulator_switch_stack had been called at the beginning of fibre_main, on a stack aligned as in any function.
void rewind(Fibre& fibre) {
  void** top = reinterpret_cast<void**>(fibre.stack + stacks::bytes);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&fibre_main);
  fibre.pointer = top - 6;
}

// Lets those that wait go on, from `first`, which were made ready last, in any order.
void ready_from(size_t first) { chance.shuffle(block.ready.data() + first, block.ready.size() - first); }

void wait_at(const Site& site, unsigned mask) {
  current->site = site;
  current->mask = mask;
  to_host(false);
}

// ---- blocks

void begin_block(uint64_t number, int set) {
  const unsigned* size = launch_in_use->block;
  blockIdx.x = static_cast<unsigned>(number % launch_in_use->grid[0]);
  blockIdx.y = static_cast<unsigned>(number / launch_in_use->grid[0] % launch_in_use->grid[1]);
  blockIdx.z = static_cast<unsigned>(number / launch_in_use->grid[0] / launch_in_use->grid[1]);
  block.threads = static_cast<int>(size[0] * size[1] * size[2]);
  block.returned = 0;
  block.atomics = 0;
  block.first_returned = nullptr;
  block.barrier = std::make_unique<Barrier>();
  block.warps.assign(static_cast<size_t>(block.threads + 31) / 32, Warp{});
  block.ready.clear();
  block.ready.reserve(static_cast<size_t>(block.threads));
  block.depth_first = (chance.word() & 1u) != 0;
  while (fibres[set].size() < static_cast<size_t>(block.threads)) {
    Fibre made{};
    made.stack = stacks::allocate();
    made.checked = races::create();
    fibres[set].push_back(made);
  }
  block.fibres = fibres[set].data();
  for (int i = 0; i < block.threads; ++i) {
    Fibre& fibre = block.fibres[i];
    const unsigned k = static_cast<unsigned>(i);
    const uint3 index{k % size[0], k / size[0] % size[1], k / size[0] / size[1]};
    fibre = Fibre{fibre.stack, nullptr, nullptr, fibre.checked, index, i, false, {}, 0, false, {}, 0};
    rewind(fibre);
    block.warps[k / 32].exists |= 1u << k % 32;
    block.ready.push_back(i);
    races::name(fibre.checked, fibre.index);
  }
  ready_from(0);
}

// Of exactly the size asked for, so that the next byte is not the kernel's.
void* junk(size_t size) {
  unsigned char* memory = static_cast<unsigned char*>(malloc(size));
  if (memory == nullptr) throw std::bad_alloc();
  for (size_t i = 0; i < size; i += 8) {
    const uint64_t word = chance.word();
    memcpy(memory + i, &word, size - i < 8 ? size - i : 8);
  }
  return memory;
}

void run_block(uint64_t number, int set) {
  begin_block(number, set);
  block.shared = junk(launch_in_use->shared_bytes);
  races::release(&start);
  while (!failed && !block.ready.empty()) {
    const size_t last = block.ready.size() - 1;
    std::swap(block.ready[block.depth_first ? last : chance.below(last + 1)], block.ready[last]);
    const int next = block.ready[last];
    block.ready.pop_back();
    resume(block.fibres[next]);
  }
  if (!failed && block.returned < block.threads) {
    failed = true;
    report_deadlock();
  }
}

// As one that knows all that the block did: the host must not know before the launch ends, for it would pass that on to
// the next block.
void free_shared() {
  static void* const janitor = races::create();
  races::enter(janitor);
  races::acquire(&finish);
  free(block.shared);
  races::enter(host_checked);
}

// It stopped half way: what it did is over all the same, and its stack is free.
void abandon(const Fibre& fibre) {
  races::enter(fibre.checked);
  races::release(&finish);
  stacks::forget(fibre.stack);
}

void run_blocks() {
  const unsigned* grid = launch_in_use->grid;
  std::vector<uint64_t> order(uint64_t{grid[0]} * grid[1] * grid[2]);
  for (uint64_t i = 0; i < order.size(); ++i) order[i] = i;
  chance.shuffle(order.data(), order.size());
  for (uint64_t i = 0; i < order.size() && !failed; ++i) {
    run_block(order[i], static_cast<int>(i % races::fibre_sets));
    free_shared();
  }
  if (!failed) return;
  for (const std::vector<Fibre>& set : fibres) {
    for (const Fibre& fibre : set) abandon(fibre);
  }
  races::enter(host_checked);
}

cudaError_t refusal(const Launch& launch) {
  const uint64_t threads = uint64_t{launch.block[0]} * launch.block[1] * launch.block[2];
  if (threads == 0 || threads > threads_most || launch.block[0] > 1024 || launch.block[1] > 1024 ||
      launch.block[2] > 64) {
    return cudaErrorInvalidConfiguration;
  }
  if (launch.grid[0] == 0 || launch.grid[1] == 0 || launch.grid[2] == 0 || launch.grid[0] > 0x7fffffffu ||
      launch.grid[1] > 65535 || launch.grid[2] > 65535) {
    return cudaErrorInvalidConfiguration;
  }
  const auto allowed = shared_allowed.find(launch.kernel);
  const int most = allowed == shared_allowed.end() ? shared_default : allowed->second;
  return launch.shared_bytes > static_cast<size_t>(most) ? cudaErrorInvalidValue : cudaSuccess;
}

}  // namespace

int lane() { return current->number % 32; }
void* dynamic_shared() { return block.shared; }

void fail(const char* problem, Site site) {
  accuse(site, 0);
  say("%s", problem);
  give_up();
}

Counts block_barrier(bool predicate, Site site) {
  Barrier& barrier = *block.barrier;
  if (block.returned > 0) {
    accuse(site, 0);
    say_thread(*block.first_returned);
    say(" of this block has returned");
    give_up();
  }
  if (barrier.arrived > 0 && !same(barrier.site, site)) {
    accuse(site, 0);
    say("other threads of this block wait at ");
    say_site(barrier.site, 0);
    give_up();
  }
  const unsigned turn = barrier.turn & 1u;
  races::release(&barrier.order[turn]);
  barrier.site = site;
  barrier.set += predicate;
  if (++barrier.arrived == block.threads) {
    barrier.counts[turn] = {barrier.set, block.threads};
    barrier.arrived = barrier.set = 0;
    ++barrier.turn;
    for (int i = 0; i < block.threads; ++i) block.ready.push_back(i);
    ready_from(0);
  }
  wait_at(site, 0);
  races::acquire(&barrier.order[turn]);
  return barrier.counts[turn];
}

Lanes gather(unsigned mask, uint64_t value, bool orders_memory, Site site) {
  Warp& warp = block.warps[static_cast<size_t>(current->number / 32)];
  const unsigned mine = 1u << lane();
  const char* problem = (mask & mine) == 0                 ? "its mask lacks the lane itself"
                        : (mask & ~warp.exists) != 0       ? "its mask names lanes that the block does not have"
                        : (mask & warp.returned) != 0      ? "its mask names lanes that have returned"
                                                           : nullptr;
  if (problem != nullptr) {
    accuse(site, mask);
    say("%s", problem);
    give_up();
  }
  Group* group = nullptr;
  for (Group& open : warp.groups) {
    const bool fits = open.inside > 0 && open.mask == mask && open.arrived != mask && same(open.site, site);
    if (fits || (group == nullptr && open.inside == 0)) group = &open;
    if (fits) break;
  }
  if (group->inside == 0) *group = {site, mask, 0, 0, orders_memory ? new char : nullptr, {}};
  if (orders_memory) races::release(group->order);
  group->lanes.value[lane()] = value;
  group->arrived |= mine;
  ++group->inside;
  if (group->arrived == mask) {
    const size_t first = block.ready.size();
    for (int i = 0; i < 32; ++i) {
      if ((mask >> i & 1u) != 0) block.ready.push_back(current->number - lane() + i);
    }
    ready_from(first);
  }
  wait_at(site, mask);
  if (orders_memory) races::acquire(group->order);
  if (--group->inside == 0) delete group->order;
  return group->lanes;
}

void atomic_point(const void* address, bool is_float, Site site) {
  float_atomics += is_float;
  if (++block.atomics > atomics_most) fail("too many in one block: does it wait for another block?", site);
  if ((chance.word() & 3u) == 0) {
    block.ready.push_back(current->number);
    std::swap(block.ready.back(), block.ready[chance.below(block.ready.size())]);
    to_host(false);
  }
  if (current->fenced) races::release(address);
  current->atomics[current->atomic_count++ % 4] = address;
}

// What another thread did before its fence and its atomic is known to one that saw the atomic and comes to a fence.
void fence() {
  current->fenced = true;
  for (const void* address : current->atomics) {
    if (address != nullptr) races::acquire(address);
  }
}

int allow_shared(const void* kernel, int attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || value > shared_most) return last_error = cudaErrorInvalidValue;
  shared_allowed[kernel] = value;
  return cudaSuccess;
}

int blocks_at_once(int threads, size_t shared_bytes) {
  const int by_threads = threads > 0 ? 2048 / threads : 0;
  const int by_shared = static_cast<int>(size_t{228 * 1024} / (shared_bytes + 1024));  // each block costs 1 KiB more
  const int fewest = by_threads < by_shared ? by_threads : by_shared;
  return fewest < 32 ? fewest : 32;
}

int run(const Launch& launch) {
  last_error = refusal(launch);
  if (last_error != cudaSuccess) return last_error;
  launch_in_use = &launch;
  host_checked = races::current();
  failed = false;
  gridDim = {launch.grid[0], launch.grid[1], launch.grid[2]};
  blockDim = {launch.block[0], launch.block[1], launch.block[2]};
  run_blocks();
  races::acquire(&finish);
  return last_error = failed ? cudaErrorLaunchFailure : cudaSuccess;
}

}  // namespace emulator

extern "C" {

void emulator_seed(uint64_t seed) { emulator::chance.seed(seed); }
const char* emulator_report() { return emulator::report; }
unsigned long long emulator_float_atomics() { return emulator::float_atomics; }
unsigned long long emulator_switches() { return emulator::switches; }

cudaError_t cudaPeekAtLastError() { return emulator::last_error; }
cudaError_t cudaGetLastError() {
  const cudaError_t error = emulator::last_error;
  emulator::last_error = cudaSuccess;
  return error;
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorLaunchFailure:
      return emulator::report;
  }
  return "unrecognized error code";
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      return *value = emulator::threads_most, cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      return *value = emulator::shared_default, cudaSuccess;
    case cudaDevAttrWarpSize:
      return *value = warpSize, cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      return *value = 2, cudaSuccess;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      return *value = 2048, cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      return *value = 9, cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      return *value = 0, cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      return *value = 228 * 1024, cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      return *value = emulator::shared_most, cudaSuccess;
  }
  return cudaErrorInvalidValue;
}
}
