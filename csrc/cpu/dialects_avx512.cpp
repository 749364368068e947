// The kernels of other libraries' rules for instruction set avx512; everything but the table has internal linkage.
#include "cpu/dialects.h"

namespace qscale::cpu {

const DialectKernels avx512_dialect_kernels = all_dialect_kernels();

}  // namespace qscale::cpu
