// Fake quantization by the rules of other libraries on CPU tensors: what may be asked, threads, and registration.
// Schemas are in qscale/kernels/dialects/compiled.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>

#include "bindings/tensors.h"
#include "cpu/dialect_kernels.h"

namespace {

using namespace qscale::dialects;
using qscale::BFloat16;
using qscale::Codebook;
using qscale::dtype_of;
using qscale::Half;
using qscale::kElementsPerThread;
using qscale::Rounding;
using qscale::uninitialized_like;
using qscale::cpu::dialect_kernels;
using qscale::cpu::DialectJob;
using qscale::cpu::DialectKernels;
using qscale::DType;
using qscale::cpu::KernelsOf;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Last mantissas by rounded logarithms, one table after the other; written while qscale.kernels is imported.
constexpr int64_t kTable = 256;
int32_t logarithms[4][kTable];
const int32_t* ceil_log2() { return logarithms[0]; }
const int32_t* floor_log2(DType dtype) { return logarithms[1 + static_cast<int>(dtype)]; }

void keep_logarithms(const Tensor& tables) {
  STD_TORCH_CHECK(tables.scalar_type() == ScalarType::Int && tables.is_contiguous() && tables.numel() == 4 * kTable,
                  "keep_logarithms: wanted 4 tables of 256 Int");
  std::memcpy(logarithms, tables.const_data_ptr(), sizeof logarithms);
}

// What an op works on: contiguous, not empty. Groups run along `axis`.
struct Source {
  const char* op;
  const void* data;
  int64_t count;
  int64_t axis;
  DType dtype;
};

int64_t size_of(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

float absmax_of(const Source& x) {
  const auto run = dialect_kernels().magnitude[static_cast<int>(x.dtype)];
  const char* data = static_cast<const char*>(x.data);
  std::atomic<uint32_t> largest{0};
  const auto part = [&](int64_t first, int64_t last) {
    const uint32_t found = run(data + first * size_of(x.dtype), last - first);
    uint32_t seen = largest.load(std::memory_order_relaxed);
    while (found > seen && !largest.compare_exchange_weak(seen, found, std::memory_order_relaxed)) {
    }
  };
  if (x.count <= kElementsPerThread) {
    part(0, x.count);
  } else {
    torch::stable::parallel_for(0, x.count, kElementsPerThread, part);
  }
  return qscale::float_of(largest.load());
}

template <class Rule>
void run(const Source& x, void* y, int64_t group, const Rule& rule) {
  // Rows of whole groups are one long row.
  const DialectJob<Rule> job{x.data, y, x.axis % group == 0 ? x.count : x.axis, group, rule};
  const auto work = static_cast<const KernelsOf<Rule>&>(dialect_kernels()).by_dtype[static_cast<int>(x.dtype)];
  const int64_t groups = x.count / job.axis * ((job.axis + group - 1) / group);
  const int64_t grain = std::max<int64_t>(1, kElementsPerThread / group);
  if (groups <= grain) {
    work(job, 0, groups);
  } else {
    torch::stable::parallel_for(0, groups, grain, [&](int64_t first, int64_t last) { work(job, first, last); });
  }
}

// Groups as a library has them: -1 is the whole axis; most want whole groups, some take a short last one.
enum class Groups { whole, any };

int64_t group_of(const Source& x, int64_t group_size, Groups groups) {
  STD_TORCH_CHECK(group_size == -1 || group_size > 0, x.op, ": group_size=", group_size,
                  "; wanted at least 1, or -1 for the whole last axis");
  STD_TORCH_CHECK(group_size == -1 || groups == Groups::any || x.axis % group_size == 0, x.op, ": the last axis has ",
                  x.axis, " elements; wanted whole groups of ", group_size);
  return group_size == -1 ? x.axis : std::min(group_size, x.axis);
}

void check_index(const char* op, const char* name, int64_t value, int64_t first, int64_t last) {
  STD_TORCH_CHECK(first <= value && value <= last, op, ": ", name, "=", value, "; wanted ", first, " to ", last);
}

float half_of(const char* op, int64_t num_bits) {
  check_index(op, "num_bits", num_bits, 2, 8);
  return static_cast<float>(1 << (num_bits - 1));
}

Element element_of(const char* op, int64_t index) {
  check_index(op, "element", index, 0, kElementCount - 1);
  return element(index);
}

template <class Rule>
Rule torchao_integers(const Source& x, int64_t num_bits, int64_t mapping) {
  const float half = half_of(x.op, num_bits);
  check_index(x.op, "mapping", mapping, 0, 2);
  return {-half, half - 1.0f, static_cast<Mapping>(mapping)};
}

// Each op: its name, and a function that asks the kernels.
struct TorchaoIntOp {
  static constexpr const char* name = "fake_quant_torchao_int";
  static void call(const Source& x, void* y, int64_t num_bits, int64_t mapping, int64_t group_size) {
    run(x, y, group_of(x, group_size, Groups::whole), torchao_integers<TorchaoInt>(x, num_bits, mapping));
  }
};

struct TorchaoAffineOp {
  static constexpr const char* name = "fake_quant_torchao_affine";
  static void call(const Source& x, void* y, int64_t num_bits, int64_t mapping, int64_t group_size) {
    run(x, y, group_of(x, group_size, Groups::whole), torchao_integers<TorchaoAffine>(x, num_bits, mapping));
  }
};

struct TorchaoFloat8Op {
  static constexpr const char* name = "fake_quant_torchao_float8";
  static void call(const Source& x, void* y, int64_t element, int64_t group_size) {
    run(x, y, group_of(x, group_size, Groups::whole), TorchaoFloat8{element_of(x.op, element)});
  }
};

struct TorchaoMxOp {
  static constexpr const char* name = "fake_quant_torchao_mx";
  static void call(const Source& x, void* y, int64_t element, int64_t scale_rule, int64_t group_size) {
    const Element e = element_of(x.op, element);
    const int64_t group = group_of(x, group_size, Groups::whole);
    check_index(x.op, "scale_rule", scale_rule, 0, 3);
    if (scale_rule == 2) {
      run(x, y, group, TorchaoMxRceil{e, ceil_log2()});
    } else {
      const uint32_t half = scale_rule == 3 ? 1u << (22 - e.mantissa_bits) : 0u;
      run(x, y, group, TorchaoMx{e, half, scale_rule == 1 ? 1 : 0});
    }
  }
};

struct TorchaoNvfp4Op {
  static constexpr const char* name = "fake_quant_torchao_nvfp4";
  static void call(const Source& x, void* y, int64_t tensor_level, int64_t group_size) {
    check_index(x.op, "tensor_level", tensor_level, 0, 1);
    const int64_t group = group_of(x, group_size, Groups::whole);
    run(x, y, group, tensor_level == 1 ? torchao_nvfp4(absmax_of(x)) : TorchaoNvfp4{1.0f});
  }
};

struct CompressedIntOp {
  static constexpr const char* name = "fake_quant_compressed_tensors_int";
  static void call(const Source& x, void* y, int64_t num_bits, int64_t symmetric, int64_t group_size) {
    const float half = half_of(x.op, num_bits);
    check_index(x.op, "symmetric", symmetric, 0, 1);
    const int64_t group = group_of(x, group_size, Groups::whole);
    if (symmetric == 1) {
      run(x, y, group, CompressedInt{half});
    } else {
      run(x, y, group, CompressedAsymmetric{half});
    }
  }
};

struct CompressedFloat8Op {
  static constexpr const char* name = "fake_quant_compressed_tensors_float8";
  static void call(const Source& x, void* y, int64_t group_size) {
    run(x, y, group_of(x, group_size, Groups::whole), CompressedFloat8{e4m3()});
  }
};

struct CompressedMxOp {
  static constexpr const char* name = "fake_quant_compressed_tensors_mx";
  static void call(const Source& x, void* y, int64_t element, int64_t group_size) {
    run(x, y, group_of(x, group_size, Groups::whole), compressed_mx(element_of(x.op, element)));
  }
};

struct CompressedNvfp4Op {
  static constexpr const char* name = "fake_quant_compressed_tensors_nvfp4";
  static void call(const Source& x, void* y, int64_t group_size) {
    const int64_t group = group_of(x, group_size, Groups::whole);
    const float absmax = absmax_of(x);
    run(x, y, group, x.dtype == DType::float32    ? compressed_nvfp4<float>(absmax)
                     : x.dtype == DType::bfloat16 ? compressed_nvfp4<BFloat16>(absmax)
                                                  : compressed_nvfp4<Half>(absmax));
  }
};

struct OcpMxOp {
  static constexpr const char* name = "fake_quant_ocp_mx";
  static void call(const Source& x, void* y, int64_t element, int64_t group_size) {
    check_index(x.op, "group_size", group_size, kOcpBlock, kOcpBlock);
    run(x, y, group_of(x, group_size, Groups::any), OcpMx{element_of(x.op, element)});
  }
};

// Blocks run on over the rows of the whole tensor.
struct BitsandbytesOp {
  static constexpr const char* name = "fake_quant_bitsandbytes_4bit";
  static void call(const Source& x, void* y, int64_t codebook, int64_t group_size) {
    check_index(x.op, "codebook", codebook, 0, 1);
    check_index(x.op, "group_size", group_size, 1, INT64_MAX);
    const Codebook table = qscale::codebook(codebook);
    Source whole = x;
    const int64_t rest = x.count % group_size;
    whole.count = whole.axis = x.count - rest;
    if (whole.count > 0) run(whole, y, group_size, Bitsandbytes{table});
    if (rest == 0) return;
    const int64_t offset = whole.count * size_of(x.dtype);
    const Source last{x.op, static_cast<const char*>(x.data) + offset, rest, rest, x.dtype};
    run(last, static_cast<char*>(y) + offset, rest, BitsandbytesShort{table});
  }
};

struct ModeloptIntOp {
  static constexpr const char* name = "fake_quant_modelopt_int";
  static void call(const Source& x, void* y, int64_t num_bits, int64_t group_size) {
    run(x, y, group_of(x, group_size, Groups::whole), ModeloptInt{half_of(x.op, num_bits) - 1.0f});
  }
};

struct ModeloptFloat8Op {
  static constexpr const char* name = "fake_quant_modelopt_float8";
  static void call(const Source& x, void* y, int64_t group_size) {
    run(x, y, group_of(x, group_size, Groups::whole), ModeloptFloat8{});
  }
};

struct ModeloptMxfp4Op {
  static constexpr const char* name = "fake_quant_modelopt_mxfp4";
  static void call(const Source& x, void* y, int64_t group_size) {
    run(x, y, group_of(x, group_size, Groups::whole), ModeloptMxfp4{ceil_log2()});
  }
};

struct ModeloptMxfp8Op {
  static constexpr const char* name = "fake_quant_modelopt_mxfp8";
  static void call(const Source& x, void* y, int64_t group_size) {
    run(x, y, group_of(x, group_size, Groups::whole), ModeloptMxfp8{ceil_log2()});
  }
};

struct ModeloptNvfp4Op {
  static constexpr const char* name = "fake_quant_modelopt_nvfp4";
  static void call(const Source& x, void* y, int64_t group_size) {
    run(x, y, group_of(x, group_size, Groups::whole), modelopt_nvfp4(absmax_of(x)));
  }
};

struct ModeloptNf4Op {
  static constexpr const char* name = "fake_quant_modelopt_nf4";
  static void call(const Source& x, void* y, int64_t group_size) {
    static const Codebook tables[3] = {modelopt_nf4<float>(), modelopt_nf4<BFloat16>(), modelopt_nf4<Half>()};
    run(x, y, group_of(x, group_size, Groups::whole), ModeloptNf4{tables[static_cast<int>(x.dtype)]});
  }
};

struct MicroxcalingOp {
  static constexpr const char* name = "fake_quant_microxcaling_mx";
  static void call(const Source& x, void* y, int64_t element, int64_t away, int64_t group_size) {
    const Element e = element_of(x.op, element);
    check_index(x.op, "away", away, 0, 1);
    const int64_t group = group_of(x, group_size, Groups::any);
    if (away == 1) {
      run(x, y, group, microxcaling<Rounding::away>(e, floor_log2(x.dtype)));
    } else {
      run(x, y, group, microxcaling<Rounding::even>(e, floor_log2(x.dtype)));
    }
  }
};

struct TeNvfp4Op {
  static constexpr const char* name = "fake_quant_te_nvfp4";
  static void call(const Source& x, void* y, int64_t group_size) {
    run(x, y, group_of(x, group_size, Groups::any), te_nvfp4(absmax_of(x)));
  }
};

// From an op's call to functions of tensors.
template <class Op, class Call = decltype(&Op::call)>
struct Bound;

template <class Op, class... Arguments>
struct Bound<Op, void (*)(const Source&, void*, Arguments...)> {
  static void into(const Tensor& x, Tensor& y, Arguments... arguments) {
    if (x.numel() == 0) return;
    const int64_t axis = x.dim() == 0 ? 1 : x.size(-1);
    Op::call(Source{Op::name, x.const_data_ptr(), x.numel(), axis, dtype_of(Op::name, x)}, y.mutable_data_ptr(),
             arguments...);
  }

  static Tensor forward(const Tensor& x, Arguments... arguments) {
    dtype_of(Op::name, x);
    const Tensor source = x.is_contiguous() ? x : torch::stable::contiguous(x);
    Tensor y = uninitialized_like(source);
    into(source, y, arguments...);
    return y;
  }

  static void out(const Tensor& x, Arguments... arguments, Tensor y) {
    dtype_of(Op::name, x);
    STD_TORCH_CHECK(y.scalar_type() == x.scalar_type() && y.sizes().equals(x.sizes()) && y.is_contiguous(), Op::name,
                    "_out: out has dtype ", torch::headeronly::toString(y.scalar_type()), " and ", y.numel(),
                    " elements", y.is_contiguous() ? "" : ", not contiguous",
                    "; wanted a contiguous tensor of x's shape and dtype ",
                    torch::headeronly::toString(x.scalar_type()), ", ", x.numel(), " elements");
    into(x.is_contiguous() ? x : torch::stable::contiguous(x), y, arguments...);
  }
};

template <class Op, class Library>
void add(Library& m) {
  const std::string name = Op::name;
  m.impl(name.c_str(), TORCH_BOX(&Bound<Op>::forward));
  m.impl((name + "_forward").c_str(), TORCH_BOX(&Bound<Op>::forward));
  m.impl((name + "_out").c_str(), TORCH_BOX(&Bound<Op>::out));
}

template <class... Ops, class Library>
void add_all(Library& m) {
  (add<Ops>(m), ...);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(qscale, CPU, m) {
  add_all<TorchaoIntOp, TorchaoAffineOp, TorchaoFloat8Op, TorchaoMxOp, TorchaoNvfp4Op, CompressedIntOp,
          CompressedFloat8Op, CompressedMxOp, CompressedNvfp4Op, OcpMxOp, BitsandbytesOp, ModeloptIntOp,
          ModeloptFloat8Op, ModeloptMxfp4Op, ModeloptMxfp8Op, ModeloptNvfp4Op, ModeloptNf4Op, MicroxcalingOp,
          TeNvfp4Op>(m);
  m.impl("keep_logarithms", TORCH_BOX(&keep_logarithms));
}
