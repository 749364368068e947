// The kernels of modelopt's rules.
#include "cuda/dialects_launch.cuh"

template struct qscale::cuda::Dialects<qscale::dialects::ModeloptInt>;
template struct qscale::cuda::Dialects<qscale::dialects::ModeloptFloat8>;
template struct qscale::cuda::Dialects<qscale::dialects::ModeloptMxfp4>;
template struct qscale::cuda::Dialects<qscale::dialects::ModeloptMxfp8>;
template struct qscale::cuda::Dialects<qscale::dialects::ModeloptNvfp4>;
template struct qscale::cuda::Dialects<qscale::dialects::ModeloptNf4>;
