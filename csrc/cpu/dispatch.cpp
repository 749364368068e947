// Picks the instruction set at run time.
#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace qscale::cpu {
namespace {

// What the machine can run, widest first.
const std::vector<const Kernels*>& runnable() {
  static const std::vector<const Kernels*> found = [] {
    std::vector<const Kernels*> all;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
      all.push_back(&avx512_kernels);
    }
    // Every processor with AVX2 has F16C and FMA; gcc 10 cannot ask for F16C by name.
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) all.push_back(&avx2_kernels);
#endif
    all.push_back(&plain_kernels);
    return all;
  }();
  return found;
}

const Kernels* named(const std::string& name, const char* origin) {
  if (name.empty() || name == "auto") return runnable().front();
  std::string choices = "auto";
  for (const Kernels* candidate : runnable()) {
    if (name == candidate->isa) return candidate;
    choices += std::string(", ") + candidate->isa;
  }
  throw std::invalid_argument(std::string(origin) + " names instruction set '" + name +
                              "', which this machine cannot run; it can run: " + choices);
}

std::atomic<const Kernels*>& chosen() {
  static std::atomic<const Kernels*> value{nullptr};
  return value;
}

}  // namespace

const Kernels& kernels() {
  const Kernels* current = chosen().load(std::memory_order_acquire);
  if (current == nullptr) {
    const char* wanted = std::getenv("QSCALE_ISA");
    current = named(wanted == nullptr ? "" : wanted, "QSCALE_ISA");
    chosen().store(current, std::memory_order_release);
  }
  return *current;
}

void use_isa(const char* name) { chosen().store(named(name, "the caller"), std::memory_order_release); }

}  // namespace qscale::cpu
