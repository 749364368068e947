// The ops of the rules of other libraries, whatever the device: what may be asked, and functions of tensors. Schemas
// are in qscale/kernels/dialects/compiled.py.
//
// A Device has uninitialized_like(x), run(x, y, group, rule) and run_by_tensor<Rule>(x, y, group), whose rule follows
// from the largest magnitude of x.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "bindings/tensors.h"
#include "numerics/dialects/rules.h"

namespace qscale::dialects {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// In the order in which Python makes them; written while qscale.kernels is imported.
struct KeptLogarithms {
  Logarithms ceil, floor[3];  // the latter by DType
} kept;
const Logarithms& ceil_log2() { return kept.ceil; }
const Logarithms& floor_log2(DType dtype) { return kept.floor[static_cast<int>(dtype)]; }

void keep_logarithms(const Tensor& tables) {
  STD_TORCH_CHECK(tables.scalar_type() == ScalarType::Int && tables.is_contiguous() &&
                      tables.numel() * sizeof(int32_t) == sizeof kept,
                  "the tables of logarithms: wanted 4 tables of 256 Int");
  std::memcpy(&kept, tables.const_data_ptr(), sizeof kept);
}

// What an op works on: contiguous, not empty. Groups run along `axis`.
struct Source {
  const char* op;
  const Tensor& tensor;
  const void* data;
  int64_t count;
  int64_t axis;
  DType dtype;
};

int64_t size_of(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

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
template <class Device>
struct TorchaoIntOp {
  static constexpr const char* name = "fake_quant_torchao_int";
  static void call(const Source& x, void* y, int64_t num_bits, int64_t mapping, int64_t group_size) {
    Device::run(x, y, group_of(x, group_size, Groups::whole), torchao_integers<TorchaoInt>(x, num_bits, mapping));
  }
};

template <class Device>
struct TorchaoAffineOp {
  static constexpr const char* name = "fake_quant_torchao_affine";
  static void call(const Source& x, void* y, int64_t num_bits, int64_t mapping, int64_t group_size) {
    Device::run(x, y, group_of(x, group_size, Groups::whole), torchao_integers<TorchaoAffine>(x, num_bits, mapping));
  }
};

template <class Device>
struct TorchaoFloat8Op {
  static constexpr const char* name = "fake_quant_torchao_float8";
  static void call(const Source& x, void* y, int64_t element, int64_t group_size) {
    Device::run(x, y, group_of(x, group_size, Groups::whole), TorchaoFloat8{element_of(x.op, element)});
  }
};

template <class Device>
struct TorchaoMxOp {
  static constexpr const char* name = "fake_quant_torchao_mx";
  static void call(const Source& x, void* y, int64_t element, int64_t scale_rule, int64_t group_size) {
    const Element e = element_of(x.op, element);
    const int64_t group = group_of(x, group_size, Groups::whole);
    check_index(x.op, "scale_rule", scale_rule, 0, 3);
    if (scale_rule == 2) {
      Device::run(x, y, group, TorchaoMxRceil{e, ceil_log2()});
    } else {
      const uint32_t half = scale_rule == 3 ? 1u << (22 - e.mantissa_bits) : 0u;
      Device::run(x, y, group, TorchaoMx{e, half, scale_rule == 1 ? 1 : 0});
    }
  }
};

template <class Device>
struct TorchaoNvfp4Op {
  static constexpr const char* name = "fake_quant_torchao_nvfp4";
  static void call(const Source& x, void* y, int64_t tensor_level, int64_t group_size) {
    check_index(x.op, "tensor_level", tensor_level, 0, 1);
    const int64_t group = group_of(x, group_size, Groups::whole);
    if (tensor_level == 1) {
      Device::template run_by_tensor<TorchaoNvfp4>(x, y, group);
    } else {
      Device::run(x, y, group, TorchaoNvfp4{1.0f});
    }
  }
};

template <class Device>
struct CompressedIntOp {
  static constexpr const char* name = "fake_quant_compressed_tensors_int";
  static void call(const Source& x, void* y, int64_t num_bits, int64_t symmetric, int64_t group_size) {
    const float half = half_of(x.op, num_bits);
    check_index(x.op, "symmetric", symmetric, 0, 1);
    const int64_t group = group_of(x, group_size, Groups::whole);
    if (symmetric == 1) {
      Device::run(x, y, group, CompressedInt{half});
    } else {
      Device::run(x, y, group, CompressedAsymmetric{half});
    }
  }
};

template <class Device>
struct CompressedFloat8Op {
  static constexpr const char* name = "fake_quant_compressed_tensors_float8";
  static void call(const Source& x, void* y, int64_t group_size) {
    Device::run(x, y, group_of(x, group_size, Groups::whole), CompressedFloat8{e4m3()});
  }
};

template <class Device>
struct CompressedMxOp {
  static constexpr const char* name = "fake_quant_compressed_tensors_mx";
  static void call(const Source& x, void* y, int64_t element, int64_t group_size) {
    Device::run(x, y, group_of(x, group_size, Groups::whole), compressed_mx(element_of(x.op, element)));
  }
};

template <class Device>
struct CompressedNvfp4Op {
  static constexpr const char* name = "fake_quant_compressed_tensors_nvfp4";
  static void call(const Source& x, void* y, int64_t group_size) {
    Device::template run_by_tensor<CompressedNvfp4>(x, y, group_of(x, group_size, Groups::whole));
  }
};

template <class Device>
struct OcpMxOp {
  static constexpr const char* name = "fake_quant_ocp_mx";
  static void call(const Source& x, void* y, int64_t element, int64_t group_size) {
    check_index(x.op, "group_size", group_size, kOcpBlock, kOcpBlock);
    Device::run(x, y, group_of(x, group_size, Groups::any), OcpMx{element_of(x.op, element)});
  }
};

// Blocks run on over the rows of the whole tensor.
template <class Device>
struct BitsandbytesOp {
  static constexpr const char* name = "fake_quant_bitsandbytes_4bit";
  static void call(const Source& x, void* y, int64_t codebook, int64_t group_size) {
    check_index(x.op, "codebook", codebook, 0, 1);
    check_index(x.op, "group_size", group_size, 1, INT64_MAX);
    const Codebook table = qscale::codebook(codebook);
    Source whole = x;
    const int64_t rest = x.count % group_size;
    whole.count = whole.axis = x.count - rest;
    if (whole.count > 0) Device::run(whole, y, group_size, Bitsandbytes{table});
    if (rest == 0) return;
    const int64_t offset = whole.count * size_of(x.dtype);
    const Source last{x.op, x.tensor, static_cast<const char*>(x.data) + offset, rest, rest, x.dtype};
    Device::run(last, static_cast<char*>(y) + offset, rest, BitsandbytesShort{table});
  }
};

template <class Device>
struct ModeloptIntOp {
  static constexpr const char* name = "fake_quant_modelopt_int";
  static void call(const Source& x, void* y, int64_t num_bits, int64_t group_size) {
    Device::run(x, y, group_of(x, group_size, Groups::whole), ModeloptInt{half_of(x.op, num_bits) - 1.0f});
  }
};

template <class Device>
struct ModeloptFloat8Op {
  static constexpr const char* name = "fake_quant_modelopt_float8";
  static void call(const Source& x, void* y, int64_t group_size) {
    Device::run(x, y, group_of(x, group_size, Groups::whole), ModeloptFloat8{});
  }
};

template <class Device>
struct ModeloptMxfp4Op {
  static constexpr const char* name = "fake_quant_modelopt_mxfp4";
  static void call(const Source& x, void* y, int64_t group_size) {
    Device::run(x, y, group_of(x, group_size, Groups::whole), ModeloptMxfp4{ceil_log2()});
  }
};

template <class Device>
struct ModeloptMxfp8Op {
  static constexpr const char* name = "fake_quant_modelopt_mxfp8";
  static void call(const Source& x, void* y, int64_t group_size) {
    Device::run(x, y, group_of(x, group_size, Groups::whole), ModeloptMxfp8{ceil_log2()});
  }
};

template <class Device>
struct ModeloptNvfp4Op {
  static constexpr const char* name = "fake_quant_modelopt_nvfp4";
  static void call(const Source& x, void* y, int64_t group_size) {
    Device::template run_by_tensor<ModeloptNvfp4>(x, y, group_of(x, group_size, Groups::whole));
  }
};

template <class Device>
struct ModeloptNf4Op {
  static constexpr const char* name = "fake_quant_modelopt_nf4";
  static void call(const Source& x, void* y, int64_t group_size) {
    static const Codebook tables[3] = {modelopt_nf4<float>(), modelopt_nf4<BFloat16>(), modelopt_nf4<Half>()};
    Device::run(x, y, group_of(x, group_size, Groups::whole), ModeloptNf4{tables[static_cast<int>(x.dtype)]});
  }
};

template <class Device>
struct MicroxcalingOp {
  static constexpr const char* name = "fake_quant_microxcaling_mx";
  static void call(const Source& x, void* y, int64_t element, int64_t away, int64_t group_size) {
    const Element e = element_of(x.op, element);
    check_index(x.op, "away", away, 0, 1);
    const int64_t group = group_of(x, group_size, Groups::any);
    if (away == 1) {
      Device::run(x, y, group, microxcaling<Rounding::away>(e, floor_log2(x.dtype)));
    } else {
      Device::run(x, y, group, microxcaling<Rounding::even>(e, floor_log2(x.dtype)));
    }
  }
};

template <class Device>
struct TeNvfp4Op {
  static constexpr const char* name = "fake_quant_te_nvfp4";
  static void call(const Source& x, void* y, int64_t group_size) {
    Device::template run_by_tensor<TeNvfp4>(x, y, group_of(x, group_size, Groups::any));
  }
};

// From an op's call to functions of tensors.
template <class Device, class Op, class Call = decltype(&Op::call)>
struct Bound;

template <class Device, class Op, class... Arguments>
struct Bound<Device, Op, void (*)(const Source&, void*, Arguments...)> {
  static void into(const Tensor& x, Tensor& y, Arguments... arguments) {
    if (x.numel() == 0) return;
    const int64_t axis = x.dim() == 0 ? 1 : x.size(-1);
    Op::call(Source{Op::name, x, x.const_data_ptr(), x.numel(), axis, dtype_of(Op::name, x)}, y.mutable_data_ptr(),
             arguments...);
  }

  static Tensor forward(const Tensor& x, Arguments... arguments) {
    dtype_of(Op::name, x);
    const Tensor source = x.is_contiguous() ? x : torch::stable::contiguous(x);
    Tensor y = Device::uninitialized_like(source);
    into(source, y, arguments...);
    return y;
  }

  static void out(const Tensor& x, Arguments... arguments, Tensor y) {
    dtype_of(Op::name, x);
    check_out(Op::name, x, y);
    into(x.is_contiguous() ? x : torch::stable::contiguous(x), y, arguments...);
  }
};

template <class Device, class Op, class Library>
void add(Library& m) {
  using Functions = Bound<Device, Op>;
  const std::string name = Op::name;
  m.impl(name.c_str(), TORCH_BOX(&Functions::forward));
  m.impl((name + "_forward").c_str(), TORCH_BOX(&Functions::forward));
  m.impl((name + "_out").c_str(), TORCH_BOX(&Functions::out));
}

template <class Device, template <class> class... Ops, class Library>
void add_ops(Library& m) {
  (add<Device, Ops<Device>>(m), ...);
}

template <class Device, class Library>
void add_dialects(Library& m) {
  add_ops<Device, TorchaoIntOp, TorchaoAffineOp, TorchaoFloat8Op, TorchaoMxOp, TorchaoNvfp4Op, CompressedIntOp,
          CompressedFloat8Op, CompressedMxOp, CompressedNvfp4Op, OcpMxOp, BitsandbytesOp, ModeloptIntOp,
          ModeloptFloat8Op, ModeloptMxfp4Op, ModeloptMxfp8Op, ModeloptNvfp4Op, ModeloptNf4Op, MicroxcalingOp,
          TeNvfp4Op>(m);
}

}  // namespace
}  // namespace qscale::dialects
