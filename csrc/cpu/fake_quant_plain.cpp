// The kernels for instruction set plain; everything but the table has internal linkage.
#include "cpu/fake_quant.h"
#include "cpu/vec_plain.h"

namespace qscale::cpu {

const Kernels plain_kernels = kernels_of<Plain>("plain");

}  // namespace qscale::cpu
