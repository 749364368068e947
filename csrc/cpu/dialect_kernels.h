// The kernels of other libraries' rules, and how callers reach those of the instruction set in use. No torch.
#pragma once

#include "cpu/kernels.h"
#include "numerics/dialects/rules.h"

namespace qscale::cpu {

// Rows of `axis` elements, each cut into groups of `group`; the last group of a row may be shorter.
template <class Rule>
struct DialectJob {
  const void* x;
  void* y;
  int64_t axis;
  int64_t group;
  Rule rule;
};

// Groups are numbered through all rows; a call does those in [first, last).
template <class Rule>
using DialectFn = void (*)(const DialectJob<Rule>& job, int64_t first, int64_t last);

// The largest magnitude of n elements, as its float32 pattern: NaN is above infinity.
using MagnitudeFn = uint32_t (*)(const void* x, int64_t n);

// Each array is indexed by DType.
template <class Rule>
struct KernelsOf {
  DialectFn<Rule> by_dtype[3];
};

template <class... Rules>
struct KernelTable : KernelsOf<Rules>... {
  MagnitudeFn magnitude[3];
};

// A new rule is one name here.
using DialectKernels =
    KernelTable<dialects::TorchaoInt, dialects::TorchaoAffine, dialects::TorchaoFloat8, dialects::TorchaoMx,
                dialects::TorchaoMxRceil, dialects::TorchaoNvfp4, dialects::CompressedInt,
                dialects::CompressedAsymmetric, dialects::CompressedFloat8, dialects::CompressedMx,
                dialects::CompressedNvfp4, dialects::OcpMx, dialects::Bitsandbytes, dialects::BitsandbytesShort,
                dialects::ModeloptInt, dialects::ModeloptFloat8, dialects::ModeloptMxfp4, dialects::ModeloptMxfp8,
                dialects::ModeloptNvfp4, dialects::ModeloptNf4, dialects::Microxcaling<Rounding::even>,
                dialects::Microxcaling<Rounding::away>, dialects::TeNvfp4>;

extern const DialectKernels plain_dialect_kernels;
#if defined(__x86_64__)
extern const DialectKernels avx2_dialect_kernels;
extern const DialectKernels avx512_dialect_kernels;
#endif

const DialectKernels& dialect_kernels();

}  // namespace qscale::cpu
