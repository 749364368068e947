// The kernels of other libraries' rules for the instruction set in use.
#include "cpu/dialect_kernels.h"

namespace qscale::cpu {

const DialectKernels& dialect_kernels() {
#if defined(__x86_64__)
  const Kernels* current = &kernels();
  if (current == &avx512_kernels) return avx512_dialect_kernels;
  if (current == &avx2_kernels) return avx2_dialect_kernels;
#else
  kernels();  // throws where QSCALE_ISA names an instruction set that is not there
#endif
  return plain_dialect_kernels;
}

}  // namespace qscale::cpu
