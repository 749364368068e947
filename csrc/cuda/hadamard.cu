// The kernels of Hadamard transforms.
#include "cuda/hadamard_launch.cuh"
