// The runtime's host functions, for one device that is like a small SM 9.0.
#pragma once

#include "emulator.h"

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719
};
using cudaStream_t = struct CUstream_st*;

// The next two give what the last launch said; the first of them also forgets it.
extern "C" cudaError_t cudaGetLastError();
extern "C" cudaError_t cudaPeekAtLastError();
// For cudaErrorLaunchFailure, the report of the launch that failed last.
extern "C" const char* cudaGetErrorString(cudaError_t error);
inline cudaError_t cudaDeviceSynchronize() { return cudaPeekAtLastError(); }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaPeekAtLastError(); }

enum cudaDeviceAttr {
  cudaDevAttrMaxThreadsPerBlock = 1,
  cudaDevAttrMaxSharedMemoryPerBlock = 8,
  cudaDevAttrWarpSize = 10,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMaxThreadsPerMultiProcessor = 39,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
extern "C" cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }

enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9
};

namespace emulator {

int allow_shared(const void* kernel, int attribute, int value);
int blocks_at_once(int threads, size_t shared_bytes);

}  // namespace emulator

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute attribute, int value) {
  return static_cast<cudaError_t>(emulator::allow_shared(reinterpret_cast<const void*>(kernel), attribute, value));
}

template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel*, int threads, size_t shared_bytes) {
  *blocks = emulator::blocks_at_once(threads, shared_bytes);
  return cudaSuccess;
}

struct cudaLaunchAttribute;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;  // none is known here
  unsigned numAttrs = 0;
};

// Runs the grid to its end. Every thread gets its own copy of the arguments.
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  using Call = std::pair<void (*)(Parameters...), std::tuple<std::decay_t<Parameters>...>>;
  const Call call{kernel, {std::forward<Arguments>(arguments)...}};
  emulator::Launch launch{};
  launch.grid[0] = config->gridDim.x, launch.grid[1] = config->gridDim.y, launch.grid[2] = config->gridDim.z;
  launch.block[0] = config->blockDim.x, launch.block[1] = config->blockDim.y, launch.block[2] = config->blockDim.z;
  launch.shared_bytes = config->dynamicSmemBytes;
  launch.kernel = reinterpret_cast<const void*>(kernel);
  launch.arguments = &call;
  launch.run = [](const void* pointer) {
    const Call& made = *static_cast<const Call*>(pointer);
    std::apply(made.first, made.second);
  };
  return static_cast<cudaError_t>(emulator::run(launch));
}
