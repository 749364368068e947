// The kernels of torchao's rules.
#include "cuda/dialects_launch.cuh"

template struct qscale::cuda::Dialects<qscale::dialects::TorchaoInt>;
template struct qscale::cuda::Dialects<qscale::dialects::TorchaoAffine>;
template struct qscale::cuda::Dialects<qscale::dialects::TorchaoFloat8>;
template struct qscale::cuda::Dialects<qscale::dialects::TorchaoMx>;
template struct qscale::cuda::Dialects<qscale::dialects::TorchaoMxRceil>;
template struct qscale::cuda::Dialects<qscale::dialects::TorchaoNvfp4>;
