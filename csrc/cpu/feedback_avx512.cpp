// Rounding with error feedback for instruction set avx512; everything but the table has internal linkage.
#include "cpu/feedback.h"

namespace qscale::cpu {

const FeedbackKernels avx512_feedback_kernels = kFeedback;

}  // namespace qscale::cpu
