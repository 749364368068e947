// Hadamard transforms on CUDA: what is asked, and the launches. No torch. Pointers are to device memory; each launch is
// asynchronous, on the stream given, allocates nothing and returns what the launch did.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <vector>

#include "jobs.h"
#include "numerics/host_device.h"

namespace qscale::cuda {

// Blocks of n = base * inner elements, inner a power of two, as cpu/hadamard_job.h has them and to the same bits.
struct Hadamard {
  const void* x;
  void* y;  // may be x, where x has no gaps
  int64_t base, inner;
  const uint32_t* matrix;  // sign_words of the base matrix, in the memory of the host; unused where base is 1
  float scale;
  const void* flips;  // what find_flips wrote, or null
  int64_t period;     // of flips, in elements: flips_of_signs
  bool flip_after;    // the transpose flips what it writes
  int64_t blocks;
  int64_t axis;      // a multiple of n: elements of a row,
  int64_t x_stride;  // and from a row of x to the next; those of y lie without gaps

  QSCALE_HD_MEMBER int64_t size() const { return base * inner; }
};

// A base matrix of +-1, row after row, as bits: set for -1, column 0 the highest of a row's first word.
QSCALE_HD int64_t words_in_row(int64_t base) { return (base + 31) / 32; }
std::vector<uint32_t> sign_words(const float* matrix, int64_t base);

// They go with a launch, as an argument: there is nothing to copy before it, which a graph could not capture.
constexpr int64_t kLargestBase = 172;
struct Signs {
  uint32_t words[kLargestBase * ((kLargestBase + 31) / 32)];
};

// How many flips `signs` signs make: they are repeated, so that sixteen bytes never run past the end.
int64_t flips_of_signs(DType dtype, int64_t signs);

// The sign bits of float32 signs, in words of the dtype.
cudaError_t find_flips(DType dtype, const float* signs, int64_t count, void* flips, cudaStream_t stream);

// Floats of device memory that a transform needs beside x and y: none, but for blocks longer than shared memory.
int64_t hadamard_workspace(DType dtype, const Hadamard& job);

cudaError_t hadamard(DType dtype, const Hadamard& job, float* workspace, cudaStream_t stream);

}  // namespace qscale::cuda
