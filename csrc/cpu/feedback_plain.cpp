// Rounding with error feedback for instruction set plain; everything but the table has internal linkage.
#include "cpu/feedback.h"

namespace qscale::cpu {

const FeedbackKernels plain_feedback_kernels = kFeedback;

}  // namespace qscale::cpu
