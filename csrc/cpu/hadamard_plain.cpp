// Hadamard transforms for instruction set plain; everything but the table has internal linkage.
#include "cpu/butterfly_plain.h"
#include "cpu/hadamard.h"

namespace qscale::cpu {

const HadamardFn plain_hadamard_kernels[3] = {hadamard<ButterflyPlain, float, uint32_t>,
                                              hadamard<ButterflyPlain, BFloat16, uint16_t>,
                                              hadamard<ButterflyPlain, Half, uint16_t>};

}  // namespace qscale::cpu
