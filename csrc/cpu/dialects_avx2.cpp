// The kernels of other libraries' rules for instruction set avx2; everything but the table has internal linkage.
#include "cpu/dialects.h"

namespace qscale::cpu {

const DialectKernels avx2_dialect_kernels = all_dialect_kernels();

}  // namespace qscale::cpu
