// Prints what the CUDA library launches for some jobs, without a GPU: in the place of CUDA's runtime are functions that
// write down the kernel, the grid and the bytes of its arguments. Reads the kernels' parameter sizes, a line each: name,
// count, sizes. Writes a line for each launch: case, kernel, grid, block, dynamic shared memory, arguments in hex.
#include <cuda_runtime.h>

#include <cstdio>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "cuda/dequantize.h"
#include "cuda/launch.h"
#include "cuda/rotated.h"
#include "numerics/codebook.h"

namespace {

std::map<const void*, std::string>& kernels() {
  static std::map<const void*, std::string> names;
  return names;
}
std::map<std::string, std::vector<size_t>> sizes;
std::string current;

}  // namespace

extern "C" {
void** __cudaRegisterFatBinary(void*) {
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char* function, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*, int*) {
  kernels()[function] = name;
}
cudaError_t __cudaGetKernel(cudaKernel_t*, const void*) { return cudaErrorUnknown; }
cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, size_t, cudaStream_t) { return cudaErrorUnknown; }
unsigned __cudaPushCallConfiguration(dim3, dim3, size_t, CUstream_st*) { return 1; }
cudaError_t __cudaPopCallConfiguration(dim3*, dim3*, size_t*, void*) { return cudaErrorUnknown; }
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  if (attribute != cudaDevAttrMaxSharedMemoryPerBlockOptin) return cudaErrorUnknown;
  return *value = 163 * 1024, cudaSuccess;  // of SM 8.0, the least of those that are asked
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
  const std::string& name = kernels()[function];
  const dim3 grid = config->gridDim, block = config->blockDim;
  std::printf("%s %s %u,%u,%u %u,%u,%u %zu", current.c_str(), name.c_str(), grid.x, grid.y, grid.z, block.x, block.y,
              block.z, config->dynamicSmemBytes);
  for (size_t i = 0; i < sizes[name].size(); ++i) {
    std::putchar(' ');
    for (size_t k = 0; k < sizes[name][i]; ++k) std::printf("%02x", static_cast<const unsigned char*>(arguments[i])[k]);
  }
  std::putchar('\n');
  return cudaSuccess;
}
}

namespace {

using namespace qscale;

// Addresses that nothing reads here. walk.py and cuda_static.py know them.
template <class T = void>
T* region(int number) {
  return reinterpret_cast<T*>(static_cast<uintptr_t>(number) << 40);
}
constexpr int kX = 1, kY = 2, kScales = 3, kGrad = 4, kGradX = 5, kGradScale = 6, kParts = 7, kCodes = 8;

constexpr int64_t kRows = 16384, kAxis = 4096;
const char* const kDtypes[] = {"float32", "bfloat16", "float16"};

template <class Use>
void for_dtypes(const std::string& name, Use use) {
  for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
    current = name + "/" + kDtypes[static_cast<int>(dtype)];
    if (use(dtype) != cudaSuccess) std::fprintf(stderr, "%s: not launched\n", current.c_str());
  }
}

template <class Element>
cuda::Job<Element> job_of(const Element& element, const Scaling& scaling, int64_t group) {
  cuda::Job<Element> job{};
  job.x = region(kX);
  job.y = region(kY);
  job.layout = Layout{kAxis, group};
  job.element = element;
  job.scaling = scaling;
  job.x_stride = kAxis;
  job.seed = 7;
  return job;
}

template <class Element>
void values(const std::string& name, const Element& element, const Scaling& scaling, int64_t group, bool two_levels = false) {
  for_dtypes(name, [&](DType dtype) {
    cuda::Job<Element> job = job_of(element, scaling, group);
    if (two_levels) {
      job.tensor_level = true;
      job.parts.each = region<Ends>(kParts);
      const cudaError_t done =
          cuda::find_range(dtype, job.x, kRows, kAxis, kAxis, region<Ends>(kParts), &job.parts.count, nullptr);
      if (done != cudaSuccess) return done;
    }
    return cuda::Launches<Element>::values(dtype, job, kRows, nullptr);
  });
}

template <class Element>
void given(const std::string& name, const Element& element, int64_t group) {
  for_dtypes(name, [&](DType dtype) {
    cuda::Job<Element> job = job_of(element, Scaling{ScaleKind::float32, 1.0f}, group);
    job.scale = region<float>(kScales);
    return cuda::Launches<Element>::values(dtype, job, kRows, nullptr);
  });
  for_dtypes("gradient/" + name, [&](DType dtype) {
    cuda::Job<Element> job = job_of(element, Scaling{ScaleKind::float32, 1.0f}, group);
    job.scale = region<float>(kScales);
    const cuda::Gradients out{{region(kGrad), region(kGradX), region<float>(kGradScale), nullptr, Gate{}, 0.0f},
                              region<double>(10), region<double>(11)};
    return cuda::Launches<Element>::gradients(dtype, job, kRows, out, nullptr);
  });
}

// A matrix of the host; which one does not matter.
const cuda::Signs matrix{};

// Codes into kY, and back from kCodes.
template <class Element>
void codes(const std::string& name, const Element& element, int64_t group, bool packed) {
  for_dtypes("codes/" + name, [&](DType dtype) {
    cuda::Job<Element> job = job_of(element, Scaling{ScaleKind::float32, 1.0f}, group);
    job.scale = region<float>(kScales);
    job.packed = packed;
    return cuda::Launches<Element>::codes(dtype, job, kRows, nullptr);
  });
  for_dtypes("dequantize/" + name, [&](DType dtype) {
    const float table[Dequantize::kAllCodes] = {};
    const Dequantize job{region<uint8_t>(kCodes), region(kY), Layout{kAxis, group}, table, packed, region<float>(kScales)};
    return cuda::dequantize(dtype, job, kRows, 0, nullptr);
  });
}

cuda::Hadamard rotation_of(int64_t base, int64_t inner) {
  const int64_t n = base * inner, axis = kAxis / n > 0 ? kAxis / n * n : n;
  cuda::Hadamard job{};
  job.x = region(kX);
  job.y = region(kY);
  job.base = base;
  job.inner = inner;
  job.matrix = matrix.words;
  job.scale = 0.125f;
  job.period = n;
  job.blocks = kRows * kAxis / n;
  job.axis = job.x_stride = axis;
  return job;
}

template <class Element>
void rotated(const std::string& name, int64_t inner, const Element& element, const Scaling& scaling, int64_t group) {
  for_dtypes(name, [&](DType dtype) {
    return cuda::Rotated<Element>::values(dtype, rotation_of(1, inner), job_of(element, scaling, group), nullptr);
  });
}

}  // namespace

int main() {
  std::string name;
  for (size_t count = 0; std::cin >> name >> count;) {
    for (size_t size = 0; count > 0 && std::cin >> size; --count) sizes[name].push_back(size);
  }
  const auto floats = [](int mantissa_bits, int min_exponent, float largest, ScaleKind kind, int top) {
    return std::pair(FloatGrid{mantissa_bits, min_exponent, largest}, Scaling{kind, largest, 1.0f, top, mantissa_bits});
  };
  const IntGrid int4{-7.0f, 7.0f}, uint4{0.0f, 15.0f, ZeroPoint::integer}, int8{-127.0f, 127.0f};
  const IntGrid random{-7.0f, 7.0f, ZeroPoint::none, Rounding::stochastic};
  const Scaling of_int4{ScaleKind::float32, 7.0f};
  const auto [fp8, of_fp8] = floats(3, -6, 448.0f, ScaleKind::float32, 8);
  const auto [fp4, of_fp4] = floats(1, 0, 6.0f, ScaleKind::float32, 2);
  values("int4:g32", int4, of_int4, 32);
  values("int4:g128", int4, of_int4, 128);
  values("int8:channel", int8, Scaling{ScaleKind::float32, 127.0f}, kAxis);
  values("int4:g128:asym", uint4, Scaling{ScaleKind::float32, 7.5f}, 128);
  values("int4:g128:stochastic", random, of_int4, 128);
  values("fp8_e4m3:g128", fp8, of_fp8, 128);
  values("fp4_e2m1:g32", fp4, of_fp4, 32);
  values("mxfp8_e4m3", fp8, Scaling{ScaleKind::floor, 448.0f, 1.0f, 8, 3}, 32);
  values("mxfp4", fp4, Scaling{ScaleKind::floor, 6.0f, 1.0f, 2, 1}, 32);
  values("nvfp4", fp4, Scaling{ScaleKind::e4m3, 6.0f}, 16, true);
  values("nf4:g64", codebook(0), Scaling{ScaleKind::float32, 1.0f}, 64);
  given("int4:g128:given", int4, 128);
  given("int8:channel:given", int8, kAxis);
  given("fp8_e4m3:g128:given", fp8, 128);
  codes("int4:g128", int4, 128, true);
  codes("int8:channel", int8, kAxis, false);
  codes("fp8_e4m3:g128", fp8, 128, false);
  codes("nf4:g64", codebook(0), 64, true);
  for (const int64_t inner : {16, 128, 1024, 4096, 8192, 16384, 32768}) {
    for_dtypes("hadamard:" + std::to_string(inner),
               [&](DType dtype) { return cuda::hadamard(dtype, rotation_of(1, inner), nullptr, nullptr); });
  }
  for (const auto& [base, inner] : {std::pair<int64_t, int64_t>{12, 64}, {28, 128}}) {
    for_dtypes("hadamard:" + std::to_string(base * inner),
               [&, base = base, inner = inner](DType dtype) { return cuda::hadamard(dtype, rotation_of(base, inner), nullptr, nullptr); });
  }
  rotated("hadamard:128+int4:g128", 128, int4, of_int4, 128);
  rotated("hadamard:4096+int4:g128", 4096, int4, of_int4, 128);
  rotated("hadamard:32+mxfp4", 32, fp4, Scaling{ScaleKind::floor, 6.0f, 1.0f, 2, 1}, 32);
}
