// The kernels for instruction set avx2; everything but the table has internal linkage.
#include "cpu/fake_quant.h"
#include "cpu/vec_avx2.h"

namespace qscale::cpu {

const Kernels avx2_kernels = kernels_of<Avx2>("avx2");

}  // namespace qscale::cpu
