// The kernels of compressed-tensors' rules.
#include "cuda/dialects_launch.cuh"

template struct qscale::cuda::Dialects<qscale::dialects::CompressedInt>;
template struct qscale::cuda::Dialects<qscale::dialects::CompressedAsymmetric>;
template struct qscale::cuda::Dialects<qscale::dialects::CompressedFloat8>;
template struct qscale::cuda::Dialects<qscale::dialects::CompressedMx>;
template struct qscale::cuda::Dialects<qscale::dialects::CompressedNvfp4>;
