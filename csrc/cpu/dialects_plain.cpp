// The kernels of other libraries' rules for instruction set plain; everything but the table has internal linkage.
#include "cpu/dialects.h"

namespace qscale::cpu {

const DialectKernels plain_dialect_kernels = all_dialect_kernels();

}  // namespace qscale::cpu
