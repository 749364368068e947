// The kernels of the libraries that have blocks alone: bitsandbytes, OCP's own, microxcaling and TransformerEngine.
#include "cuda/dialects_launch.cuh"

template struct qscale::cuda::Dialects<qscale::dialects::Bitsandbytes>;
template struct qscale::cuda::Dialects<qscale::dialects::BitsandbytesShort>;
template struct qscale::cuda::Dialects<qscale::dialects::OcpMx>;
template struct qscale::cuda::Dialects<qscale::dialects::Microxcaling<qscale::Rounding::even>>;
template struct qscale::cuda::Dialects<qscale::dialects::Microxcaling<qscale::Rounding::away>>;
template struct qscale::cuda::Dialects<qscale::dialects::TeNvfp4>;
