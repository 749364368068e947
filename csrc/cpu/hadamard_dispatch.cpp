// The Hadamard kernel of the instruction set in use.
#include "cpu/hadamard_job.h"
#include "cpu/kernels.h"

namespace qscale::cpu {

HadamardFn hadamard_kernel(int dtype) {
#if defined(__x86_64__)
  const Kernels* current = &kernels();
  if (current == &avx512_kernels) return avx512_hadamard_kernels[dtype];
  if (current == &avx2_kernels) return avx2_hadamard_kernels[dtype];
#else
  kernels();  // throws where QSCALE_ISA names an instruction set that is not there
#endif
  return plain_hadamard_kernels[dtype];
}

}  // namespace qscale::cpu
