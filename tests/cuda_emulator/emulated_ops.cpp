// In a library of the CUDA ops on the emulator, which stands in for the compiled kernels of the CPU.
#include <torch/csrc/stable/library.h>

#include <stdexcept>
#include <string>

namespace {

std::string cpu_isa() { return "emulator"; }

void use_cpu_isa(std::string name) {
  if (name != "emulator") throw std::invalid_argument("instruction set '" + name + "' is not the emulator");
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(qscale, CompositeExplicitAutograd, m) {
  m.impl("cpu_isa", TORCH_BOX(&cpu_isa));
  m.impl("use_cpu_isa", TORCH_BOX(&use_cpu_isa));
}
