// Rounding with error feedback for instruction set avx2; everything but the table has internal linkage.
#include "cpu/feedback.h"

namespace qscale::cpu {

const FeedbackKernels avx2_feedback_kernels = kFeedback;

}  // namespace qscale::cpu
