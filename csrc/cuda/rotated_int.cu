// Rotation and one kind of element.
#include "cuda/rotated_launch.cuh"

template struct qscale::cuda::Rotated<qscale::IntGrid>;
