// The kernels for instruction set avx512; everything but the table has internal linkage.
#include "cpu/fake_quant.h"
#include "cpu/vec_avx512.h"

namespace qscale::cpu {

const Kernels avx512_kernels = kernels_of<Avx512>("avx512");

}  // namespace qscale::cpu
