// Hadamard transforms for instruction set avx2; everything but the table has internal linkage.
#include "cpu/butterfly_avx2.h"
#include "cpu/hadamard.h"

namespace qscale::cpu {

const HadamardFn avx2_hadamard_kernels[3] = {hadamard<ButterflyAvx2, float, uint32_t>,
                                             hadamard<ButterflyAvx2, BFloat16, uint16_t>,
                                             hadamard<ButterflyAvx2, Half, uint16_t>};

}  // namespace qscale::cpu
