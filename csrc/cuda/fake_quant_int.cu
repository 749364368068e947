// The kernels of one kind of element.
#include "cuda/launch.cuh"

template struct qscale::cuda::Launches<qscale::IntGrid>;
