// Kernels with a mistake and their correct twins, and correct kernels: each launched so that its result is known. nvcc
// compiles them too.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cuda/device.cuh"

using qscale::cuda::dynamic_shared;

extern "C" void emulator_seed(uint64_t seed);
extern "C" const char* emulator_report();

constexpr unsigned all_lanes = 0xffffffffu;

// ---- kernels

template <bool planted>
__global__ void reverse(const float* x, float* y) {
  float* tile = dynamic_shared<float>();
  tile[threadIdx.x] = x[threadIdx.x];
  if (!planted) __syncthreads();
  y[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

// Writes again what others may still read: the barrier before is there, the one after is not.
template <bool planted>
__global__ void rounds(const float* x, float* y) {
  float* tile = dynamic_shared<float>();
  float sum = 0;
  for (int round = 0; round < 4; ++round) {
    tile[threadIdx.x] = x[threadIdx.x] + static_cast<float>(round);
    __syncthreads();
    sum += tile[(threadIdx.x + 32) % blockDim.x];
    if (!planted) __syncthreads();
  }
  y[threadIdx.x] = sum;
}

template <bool planted>
__global__ void reverse_warp(const float* x, float* y) {
  float* tile = dynamic_shared<float>() + (threadIdx.x & ~31u);
  const unsigned lane = threadIdx.x % 32;
  tile[lane] = x[threadIdx.x];
  if (!planted) __syncwarp();
  y[threadIdx.x] = tile[31 - lane];
}

// Lanes meet, but a shuffle says nothing of memory: the result is right here, and on most devices.
template <bool planted>
__global__ void shuffle_for_syncwarp(const float* x, float* y) {
  float* tile = dynamic_shared<float>() + (threadIdx.x & ~31u);
  const unsigned lane = threadIdx.x % 32;
  tile[lane] = x[threadIdx.x];
  __shfl_sync(all_lanes, 0, 0);
  if (!planted) __syncwarp();
  y[threadIdx.x] = tile[31 - lane];
}

template <bool planted>
__global__ void equal_writes(float* y) {
  float* word = dynamic_shared<float>();
  if (planted || threadIdx.x == 0) *word = 7.0f;
  __syncthreads();
  y[threadIdx.x] = *word;
}

template <bool planted>
__global__ void shared_overrun(float* y) {
  float* tile = dynamic_shared<float>();
  tile[threadIdx.x + (planted ? 1 : 0)] = 1.0f;
  __syncthreads();
  y[threadIdx.x] = 1.0f;
}

template <bool planted>
__global__ void global_overrun(const float* x, float* y, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (planted || i < count) y[i] = x[i < count ? i : 0];
}

template <bool planted>
__global__ void wrong_mask(const float* x, float* y) {
  const unsigned mask = planted ? 0x0000ffffu : all_lanes;
  y[threadIdx.x] = __shfl_xor_sync(mask, x[threadIdx.x], 1);
}

template <bool planted>
__global__ void read_outside_mask(const float* x, float* y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(0xffffu, x[threadIdx.x], planted ? 20 : 3);
}

template <bool planted>
__global__ void shuffle_after_return(const float* x, float* y) {
  if (threadIdx.x >= 16) return;
  y[threadIdx.x] = __shfl_down_sync(planted ? all_lanes : 0xffffu, x[threadIdx.x], 1, 16);
}

// The lanes that wait are of a warp that is full, but those of the other half never come.
template <bool planted>
__global__ void masks_differ(const float* x, float* y) {
  const bool low = threadIdx.x < 16;
  __syncwarp(low ? 0xffffu : planted ? all_lanes : 0xffff0000u);
  y[threadIdx.x] = x[threadIdx.x];
}

// The same mask at two places: each half waits for the other.
template <bool planted>
__global__ void lanes_apart(const float* x, float* y) {
  if (planted && threadIdx.x < 16) {
    __syncwarp();
  } else {
    __syncwarp();
  }
  y[threadIdx.x] = x[threadIdx.x];
}

template <bool planted>
__global__ void missing_lanes(const float* x, float* y) {
  __syncwarp(threadIdx.x < 32 || planted ? all_lanes : 0xffffu);
  y[threadIdx.x] = x[threadIdx.x];
}

template <bool planted>
__global__ void odd_width(const float* x, float* y) {
  y[threadIdx.x] = __shfl_sync(all_lanes, x[threadIdx.x], 0, planted ? 24 : 1);
}

// Waits for a thread that comes; or for one that does not.
template <bool planted>
__global__ void spinning(unsigned* flag, float* y) {
  if (threadIdx.x == 0) {
    while (atomicAdd(flag, 0u) == 0u) continue;
  } else if (!planted) {
    atomicAdd(flag, 1u);
  }
  y[threadIdx.x] = 1.0f;
}

template <bool planted>
__global__ void divergent_barrier(const float* x, float* y) {
  if (planted && threadIdx.x % 2 == 0) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  y[threadIdx.x] = x[threadIdx.x];
}

template <bool planted>
__global__ void barrier_for_some(const float* x, float* y) {
  if (!planted || threadIdx.x >= 32) __syncthreads();
  y[threadIdx.x] = __shfl_sync(all_lanes, x[threadIdx.x], static_cast<int>(threadIdx.x % 32));
}

template <bool planted>
__global__ void early_return(const float* x, float* y, int count) {
  float* tile = dynamic_shared<float>();
  const int i = static_cast<int>(threadIdx.x);
  if (planted && i >= count) return;
  tile[i] = i < count ? x[i] : 0.0f;
  __syncthreads();
  if (i < count) y[i] = tile[count - 1 - i];
}

template <bool planted>
__global__ void misaligned(const float* x, float* y) {
  const float4 v = *reinterpret_cast<const float4*>(x + (planted ? 1 : 0) + 4 * threadIdx.x);
  y[threadIdx.x] = v.x + v.y + v.z + v.w;
}

template <bool planted>
__global__ void unwritten(const float* x, float* y, int count) {
  float* tile = dynamic_shared<float>();
  const int i = static_cast<int>(threadIdx.x);
  if (i < count || !planted) tile[i] = i < count ? x[i] : 0.0f;
  __syncthreads();
  if (i == 0) {
    float sum = 0;
    for (unsigned k = 0; k < blockDim.x; ++k) sum += tile[k];
    *y = sum;
  }
}

template <bool planted>
__global__ void blocks_race(float* y) {
  if (threadIdx.x == 0) y[planted ? 0 : blockIdx.x] = 1.0f;
}

// The block that comes last adds what all wrote.
template <bool planted>
__global__ void last_block(const float* x, float* parts, unsigned* count, float* y) {
  if (threadIdx.x != 0) return;
  parts[blockIdx.x] = x[blockIdx.x];
  if (!planted) __threadfence();
  if (atomicAdd(count, 1u) + 1 < gridDim.x) return;
  if (!planted) __threadfence();
  float sum = 0;
  for (unsigned i = 0; i < gridDim.x; ++i) sum += parts[i];
  *y = sum;
}

// ---- correct kernels

__global__ void __launch_bounds__(1024) block_sum(const int* __restrict__ x, int* y, int count) {
  int* parts = dynamic_shared<int>();
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z, lane = thread % warpSize, warp = thread / warpSize;
  const unsigned rest = threads - warp * warpSize;
  const unsigned mask = rest >= 32 ? all_lanes : (1u << rest) - 1;
  int sum = 0;
  for (unsigned i = blockIdx.x * threads + thread; i < static_cast<unsigned>(count); i += gridDim.x * threads) {
    sum += __ldg(x + i);
  }
  for (int step = 16; step > 0; step /= 2) {
    const int other = __shfl_down_sync(mask, sum, lane + step < rest ? static_cast<unsigned>(step) : 0u);
    if (lane + step < 32 && lane + step < rest) sum += other;
  }
  if (lane == 0) parts[warp] = sum;
  __syncthreads();
  if (thread != 0) return;
  for (unsigned i = 1; i < (threads + 31) / 32; ++i) sum += parts[i];
  atomicAdd(y, sum);
}

template <class T>
__global__ void scan_warp(const T* x, T* y) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  T sum = x[threadIdx.x];
  for (int step = 1; step < 32; step *= 2) {
    const T other = __shfl_up_sync(all_lanes, sum, static_cast<unsigned>(step));
    if (lane >= step) sum += other;
  }
  y[threadIdx.x] = sum;
}

__global__ void transpose(const float* x, float* y, int rows, int columns) {
  float(*tile)[33] = reinterpret_cast<float(*)[33]>(dynamic_shared<float>());
  const int row = static_cast<int>(blockIdx.y * 32), column = static_cast<int>(blockIdx.x * 32);
  const int tx = static_cast<int>(threadIdx.x);
  for (int ty = static_cast<int>(threadIdx.y); ty < 32; ty += static_cast<int>(blockDim.y)) {
    if (row + ty < rows && column + tx < columns) tile[ty][tx] = x[(row + ty) * columns + column + tx];
  }
  __syncthreads();
  for (int ty = static_cast<int>(threadIdx.y); ty < 32; ty += static_cast<int>(blockDim.y)) {
    if (column + ty < columns && row + tx < rows) y[(column + ty) * rows + row + tx] = tile[tx][ty];
  }
}

__global__ void votes(int* y) {
  const int lane = static_cast<int>(threadIdx.x % 32), i = static_cast<int>(threadIdx.x);
  int ok = __ballot_sync(all_lanes, lane % 3 == 0) == 0x49249249u;
  ok &= __any_sync(all_lanes, lane == 31) == 1 && __any_sync(all_lanes, 0) == 0;
  ok &= __all_sync(all_lanes, lane < 32) == 1 && __all_sync(all_lanes, lane != 5) == 0;
  ok &= __match_any_sync(all_lanes, lane % 2) == (lane % 2 == 0 ? 0x55555555u : 0xaaaaaaaau);
  ok &= __reduce_max_sync(all_lanes, -lane) == 0 && __reduce_max_sync(all_lanes, static_cast<unsigned>(-lane)) == ~0u;
  ok &= __reduce_min_sync(all_lanes, -lane) == -31 && __reduce_add_sync(all_lanes, lane) == 496;
  ok &= __reduce_or_sync(all_lanes, 1u << lane) == ~0u && __reduce_and_sync(all_lanes, ~(1u << lane)) == 0u;
  ok &= __reduce_xor_sync(all_lanes, static_cast<unsigned>(lane)) == 0u;
  ok &= __syncthreads_or(i == 40) == 1 && __syncthreads_and(i != 40) == 0 && __syncthreads_count(i % 4 == 0) == 16;
  ok &= __shfl_sync(all_lanes, lane, 9, 8) == (lane & 24) + 1;
  ok &= __shfl_xor_sync(all_lanes, lane, 9, 8) == ((lane ^ 9) > (lane | 7) ? lane : (lane ^ 9));
  ok &= __shfl_up_sync(all_lanes, lane, 3, 8) == (lane % 8 < 3 ? lane : lane - 3);
  ok &= __shfl_down_sync(all_lanes, 1ll << lane, 3, 8) == 1ll << (lane % 8 > 4 ? lane : lane + 3);
  ok &= __half_as_ushort(__shfl_sync(all_lanes, __ushort_as_half(static_cast<unsigned short>(lane)), 7)) == 7;
  if (lane < 8) ok &= __shfl_sync(0xffu, 0.5 * lane, 5) == 2.5;
  y[i] = ok;
}

__global__ void arithmetic(int* y) {
  const float nan = __uint_as_float(0x7fc00000u), infinity = __int_as_float(0x7f800000), a = 1.0f + 0x1p-12f;
  int ok = __byte_perm(0x33221100u, 0x77665544u, 0x6420) == 0x66442200u;
  ok &= __byte_perm(0x80u, 0u, 0x8881u) == 0xffffff00u;
  ok &= __funnelshift_l(0x80000001u, 1u, 4) == 0x18u && __funnelshift_r(0x80000001u, 1u, 4) == 0x18000000u;
  ok &= __brev(1u) == 0x80000000u && __clz(1) == 31 && __clz(0) == 32 && __ffs(0) == 0 && __ffs(8) == 4;
  ok &= __popc(0xf0f0u) == 8 && __umulhi(~0u, ~0u) == 0xfffffffeu && __mulhi(-1, 1) == -1;
  ok &= __umul64hi(~0ull, 2ull) == 1ull && __mul24(0x00ffffff, 2) == -2 && __umul24(0xff000003u, 5u) == 15u;
  ok &= __float2int_rn(2.5f) == 2 && __float2int_rn(3.5f) == 4 && __float2int_rn(-2.5f) == -2;
  ok &= __float2int_rz(-2.9f) == -2 && __float2int_rd(-0.5f) == -1 && __float2int_ru(0.5f) == 1;
  ok &= __float2int_rn(nan) == 0 && __float2int_rn(3e9f) == 0x7fffffff && __float2int_rn(-infinity) == -0x7fffffff - 1;
  ok &= __float2uint_rn(-1.0f) == 0u && __float2uint_rz(1e10f) == ~0u && __int2float_rn(0x1000001) == 0x1p24f;
  ok &= __float_as_uint(min(0.0f, -0.0f)) == 0x80000000u && __float_as_int(max(-0.0f, 0.0f)) == 0;
  ok &= max(nan, 1.0f) == 1.0f && min(3u, 4u) == 3u && max(-3, 4) == 4;
  ok &= __fmaf_rn(a, a, -1.0f - 0x1p-11f) == 0x1p-24f && __fsub_rn(__fmul_rn(a, a), 1.0f + 0x1p-11f) == 0.0f;
  ok &= __fdiv_rn(1.0f, 3.0f) == 0x1.555556p-2f && __frcp_rn(3.0f) == 0x1.555556p-2f;
  ok &= __fsqrt_rn(2.0f) == 0x1.6a09e6p0f && __fadd_rn(0x1p24f, 1.0f) == 0x1p24f;
  *y = ok;
}

// One thread: each gives what was there before.
__global__ void atomics(int* y) {
  int* i = dynamic_shared<int>();
  unsigned* u = reinterpret_cast<unsigned*>(i + 1);
  *i = -5, *u = 12u;
  int ok = atomicMax(i, 3) == -5 && atomicMin(i, -1) == 3 && atomicAdd(i, 8) == -1 && atomicExch(i, 2) == 7;
  ok &= atomicCAS(i, 1, 9) == 2 && atomicCAS(i, 2, 9) == 2 && *i == 9;
  ok &= atomicOr(u, 3u) == 12u && atomicAnd(u, 6u) == 15u && atomicXor(u, 5u) == 6u && *u == 3u;
  ok &= atomicInc(u, 4u) == 3u && atomicInc(u, 4u) == 4u && *u == 0u;
  *y = ok;
}

#if !defined(QSCALE_EMULATOR_THREAD)
__global__ void static_shared(const float* x, float* y) {
  __shared__ float tile[64];
  tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = tile[63 - threadIdx.x];
}
#endif

// Where atomics are taken in any order: which thread came when.
__global__ void tickets(unsigned* next, unsigned* y) { y[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(next, 1u); }

__global__ void float_sum(const float* x, float* y) { atomicAdd(y, x[threadIdx.x]); }

// ---- how each is launched

namespace {

enum Outcome { right = 0, wrong = 1, refused = 2 };

// x is 0, 1, 2, ...; y is all -1. Exactly as long as said.
template <class T>
struct Arrays {
  std::unique_ptr<T[]> x, y;
  Arrays(size_t xs, size_t ys) : x(new T[xs]), y(new T[ys]) {
    for (size_t i = 0; i < xs; ++i) x[i] = static_cast<T>(i);
    for (size_t i = 0; i < ys; ++i) y[i] = static_cast<T>(-1);
  }
};

template <class T, class Wanted>
Outcome outcome(cudaError_t error, const T* y, size_t count, Wanted wanted) {
  if (error != cudaSuccess) return refused;
  for (size_t i = 0; i < count; ++i) {
    if (y[i] != static_cast<T>(wanted(i))) return wrong;
  }
  return right;
}

// One block of floats, as many as threads.
template <class Kernel, class Wanted>
Outcome one_block(Kernel kernel, unsigned threads, Wanted wanted) {
  Arrays<float> a(threads, threads);
  const cudaError_t error =
      qscale::cuda::launch(kernel, 1, threads, threads * sizeof(float), nullptr, a.x.get(), a.y.get());
  return outcome(error, a.y.get(), threads, wanted);
}

template <bool planted>
std::map<std::string, std::function<Outcome()>> twins() {
  const auto same = [](size_t i) { return i; };
  const auto first_half = [](auto wanted) {
    return [=](size_t i) { return i < 16 ? static_cast<double>(wanted(i)) : -1.0; };
  };
  const auto each_warp_reversed = [](size_t i) { return i / 32 * 64 + 31 - i; };
  return {
      {"missing barrier", [] { return one_block(reverse<planted>, 96, [](size_t i) { return 95 - i; }); }},
      {"missing second barrier",
       [] { return one_block(rounds<planted>, 96, [](size_t i) { return 4 * ((i + 32) % 96) + 6; }); }},
      {"missing syncwarp", [=] { return one_block(reverse_warp<planted>, 96, each_warp_reversed); }},
      {"shuffle for syncwarp",
       [=] { return one_block(shuffle_for_syncwarp<planted>, 96, each_warp_reversed); }},
      {"equal writes",
       [] {
         Arrays<float> a(0, 64);
         const cudaError_t error = qscale::cuda::launch(equal_writes<planted>, 1, 64, 4, nullptr, a.y.get());
         return outcome(error, a.y.get(), 64, [](size_t) { return 7; });
       }},
      {"shared overrun",
       [] {
         Arrays<float> a(0, 64);
         const cudaError_t error = qscale::cuda::launch(shared_overrun<planted>, 1, 64, 256, nullptr, a.y.get());
         return outcome(error, a.y.get(), 64, [](size_t) { return 1; });
       }},
      {"global overrun",
       [=] {
         Arrays<float> a(100, 100);
         const cudaError_t error =
             qscale::cuda::launch(global_overrun<planted>, 4, 32, 0, nullptr, a.x.get(), a.y.get(), 100);
         return outcome(error, a.y.get(), 100, same);
       }},
      {"wrong mask", [] { return one_block(wrong_mask<planted>, 64, [](size_t i) { return i ^ 1; }); }},
      {"read outside the mask",
       [=] { return one_block(read_outside_mask<planted>, 32, first_half([](size_t) { return 3; })); }},
      {"shuffle after return",
       [=] {
         const auto wanted = [](size_t i) { return i < 15 ? i + 1 : i; };
         return one_block(shuffle_after_return<planted>, 32, first_half(wanted));
       }},
      {"masks differ", [=] { return one_block(masks_differ<planted>, 32, same); }},
      {"lanes apart", [=] { return one_block(lanes_apart<planted>, 32, same); }},
      {"missing lanes", [=] { return one_block(missing_lanes<planted>, 48, same); }},
      {"odd width", [=] { return one_block(odd_width<planted>, 32, same); }},
      {"spinning",
       [] {
         Arrays<float> a(0, 32);
         unsigned flag = 0;
         const cudaError_t error = qscale::cuda::launch(spinning<planted>, 1, 32, 0, nullptr, &flag, a.y.get());
         return outcome(error, a.y.get(), 32, [](size_t) { return 1; });
       }},
      {"divergent barrier", [=] { return one_block(divergent_barrier<planted>, 64, same); }},
      {"barrier for some", [=] { return one_block(barrier_for_some<planted>, 64, same); }},
      {"early return",
       [] {
         Arrays<float> a(50, 50);
         const cudaError_t error =
             qscale::cuda::launch(early_return<planted>, 1, 64, 256, nullptr, a.x.get(), a.y.get(), 50);
         return outcome(error, a.y.get(), 50, [](size_t i) { return 49 - i; });
       }},
      {"misaligned",
       [] {
         Arrays<float> a(132, 32);
         const cudaError_t error = qscale::cuda::launch(misaligned<planted>, 1, 32, 0, nullptr, a.x.get(), a.y.get());
         return outcome(error, a.y.get(), 32, [](size_t i) { return 16 * i + 6 + (planted ? 4 : 0); });
       }},
      {"unwritten",
       [] {
         Arrays<float> a(50, 1);
         const cudaError_t error =
             qscale::cuda::launch(unwritten<planted>, 1, 64, 256, nullptr, a.x.get(), a.y.get(), 50);
         return outcome(error, a.y.get(), 1, [](size_t) { return 50 * 49 / 2; });
       }},
      {"blocks race",
       [] {
         Arrays<float> a(0, 5);
         const cudaError_t error = qscale::cuda::launch(blocks_race<planted>, 5, 64, 0, nullptr, a.y.get());
         return outcome(error, a.y.get(), planted ? 1 : 5, [](size_t) { return 1; });
       }},
      {"last block",
       [] {
         Arrays<float> a(7, 8);
         unsigned count = 0;
         const cudaError_t error =
             qscale::cuda::launch(last_block<planted>, 7, 32, 0, nullptr, a.x.get(), a.y.get() + 1, &count, a.y.get());
         return outcome(error, a.y.get(), 1, [](size_t) { return 21; });
       }},
  };
}

Outcome sum_of(dim3 grid, dim3 block, size_t count) {
  Arrays<int> a(count, 1);
  *a.y.get() = 0;
  const cudaError_t error =
      qscale::cuda::launch(block_sum, grid, block, 128, nullptr, a.x.get(), a.y.get(), static_cast<int>(count));
  return outcome(error, a.y.get(), 1, [count](size_t) { return count * (count - 1) / 2; });
}

template <class T>
Outcome scanned() {
  Arrays<T> a(96, 96);
  const cudaError_t error = qscale::cuda::launch(scan_warp<T>, 1, 96, 0, nullptr, a.x.get(), a.y.get());
  return outcome(error, a.y.get(), 96, [](size_t i) { return (i / 32 * 32 + i) * (i % 32 + 1) / 2; });
}

Outcome transposed(size_t rows, size_t columns) {
  Arrays<float> a(rows * columns, rows * columns);
  const dim3 grid(static_cast<unsigned>(columns + 31) / 32, static_cast<unsigned>(rows + 31) / 32);
  const cudaError_t error =
      qscale::cuda::launch(transpose, grid, dim3(32, 8), 32 * 33 * 4, nullptr, a.x.get(), a.y.get(),
                           static_cast<int>(rows), static_cast<int>(columns));
  return outcome(error, a.y.get(), rows * columns, [=](size_t i) { return i % rows * columns + i / rows; });
}

const std::map<std::string, std::function<Outcome()>> correct{
    {"sum, one block", [] { return sum_of(1, 256, 1000); }},
    {"sum, ragged block", [] { return sum_of(3, 77, 1000); }},
    {"sum, one thread", [] { return sum_of(1, 1, 5); }},
    {"sum, three dimensions", [] { return sum_of(5, dim3(5, 3, 7), 1000); }},
    {"sum, largest block", [] { return sum_of(2, 1024, 5000); }},
    {"scan of int", scanned<int>},
    {"scan of double", scanned<double>},
    {"transpose", [] { return transposed(64, 96); }},
    {"transpose, ragged", [] { return transposed(37, 70); }},
#if !defined(QSCALE_EMULATOR_THREAD)
    {"static shared memory", [] { return one_block(static_shared, 64, [](size_t i) { return 63 - i; }); }},
#endif
    {"arithmetic",
     [] {
       Arrays<int> a(0, 1);
       const cudaError_t error = qscale::cuda::launch(arithmetic, 1, 1, 0, nullptr, a.y.get());
       return outcome(error, a.y.get(), 1, [](size_t) { return 1; });
     }},
    {"atomics",
     [] {
       Arrays<int> a(0, 1);
       const cudaError_t error = qscale::cuda::launch(atomics, 1, 1, 8, nullptr, a.y.get());
       return outcome(error, a.y.get(), 1, [](size_t) { return 1; });
     }},
    {"votes",
     [] {
       Arrays<int> a(0, 64);
       const cudaError_t error = qscale::cuda::launch(votes, 1, 64, 0, nullptr, a.y.get());
       return outcome(error, a.y.get(), 64, [](size_t) { return 1; });
     }},
};

// Every one of them.
int run_correct() {
  auto all = correct;
  all.merge(twins<false>());
  for (const auto& [what, run] : all) {
    const Outcome found = run();
    if (found != right) return std::printf("%s: ", what.c_str()), found;
  }
  return right;
}

}  // namespace

extern "C" {

// "correct" is all that is; "NAME, then correct" is right where the first was refused and the second is right.
int run_case(const char* name, int planted, uint64_t seed) {
  emulator_seed(seed);
  const std::string text = name;
  const size_t then = text.find("correct");
  if (then == 0) return run_correct();
  const auto cases = planted != 0 ? twins<true>() : twins<false>();
  if (then == std::string::npos) return cases.at(text)();
  const Outcome first = cases.at(text.substr(0, then - strlen(", then ")))();
  return first == refused ? run_correct() : wrong;
}

int launch_of(unsigned grid, unsigned x, unsigned z, size_t shared_bytes) {
  unsigned next = 0;
  std::vector<unsigned> y(size_t{grid} * x * z);
  return qscale::cuda::launch(tickets, grid, dim3(x, 1, z), shared_bytes, nullptr, &next, y.data());
}

void run_tickets(uint64_t seed, unsigned blocks, unsigned threads, unsigned* y) {
  emulator_seed(seed);
  unsigned next = 0;
  qscale::cuda::launch(tickets, blocks, threads, 0, nullptr, &next, y);
}

void run_float_sum() {
  Arrays<float> a(32, 1);
  qscale::cuda::launch(float_sum, 1, 32, 0, nullptr, a.x.get(), a.y.get());
}
}

// CASE PLANTED SEEDS: what went wrong with the first seed that shows it, and 1.
int main(int count, char** arguments) {
  if (count != 4) return 64;
  for (uint64_t seed = 0; seed < strtoull(arguments[3], nullptr, 10); ++seed) {
    const int found = run_case(arguments[1], atoi(arguments[2]), seed);
    if (found == right) continue;
    std::printf("%s\n", found == refused ? emulator_report() : "wrong");
    return 1;
  }
  return 0;
}
