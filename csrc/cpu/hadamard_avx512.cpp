// Hadamard transforms for instruction set avx512; everything but the table has internal linkage.
#include "cpu/butterfly_avx512.h"
#include "cpu/hadamard.h"

namespace qscale::cpu {

const HadamardFn avx512_hadamard_kernels[3] = {hadamard<ButterflyAvx512, float, uint32_t>,
                                               hadamard<ButterflyAvx512, BFloat16, uint16_t>,
                                               hadamard<ButterflyAvx512, Half, uint16_t>};

}  // namespace qscale::cpu
