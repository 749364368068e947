// The kernels of the instruction set in use that round with error feedback.
#include "cpu/feedback_job.h"
#include "cpu/kernels.h"

namespace qscale::cpu {

const FeedbackKernels& feedback_kernels() {
#if defined(__x86_64__)
  const Kernels* current = &kernels();
  if (current == &avx512_kernels) return avx512_feedback_kernels;
  if (current == &avx2_kernels) return avx2_feedback_kernels;
#else
  kernels();  // throws where QSCALE_ISA names an instruction set that is not there
#endif
  return plain_feedback_kernels;
}

}  // namespace qscale::cpu
