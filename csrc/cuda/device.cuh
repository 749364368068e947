// What kernels need of a device: types, shared memory, launches. Also compiled by the C++ compiler, for the tests.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

namespace qscale::cuda {

// The block's dynamic shared memory, aligned to 16 bytes: as long as the launch said, and full of junk.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
#if defined(QSCALE_CUDA_EMULATOR)
  return static_cast<T*>(emulator::dynamic_shared());
#else
  extern __shared__ __align__(16) unsigned char qscale_dynamic_shared[];
  return reinterpret_cast<T*>(qscale_dynamic_shared);
#endif
}

// Without a cluster and on the stream given. Shared memory above 48 KiB is asked for by name, as the driver wants it.
template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                   Arguments&&... arguments) {
  if (shared_bytes > 48 * 1024) {
    const cudaError_t refused =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (refused != cudaSuccess) return refused;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

}  // namespace qscale::cuda
