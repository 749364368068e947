// The rules of all libraries, and which of them follow from the tensor as a whole.
#pragma once

#include "numerics/dialects/bitsandbytes.h"
#include "numerics/dialects/compressed_tensors.h"
#include "numerics/dialects/microxcaling.h"
#include "numerics/dialects/modelopt.h"
#include "numerics/dialects/ocp.h"
#include "numerics/dialects/te.h"
#include "numerics/dialects/torchao.h"

namespace qscale::dialects {

// By the largest magnitude of a tensor of T; the other rules stay as they are.
template <class T, class Rule>
QSCALE_HD const Rule& of_tensor(float, const Rule& rule) {
  return rule;
}
template <class T>
QSCALE_HD TorchaoNvfp4 of_tensor(float absmax, const TorchaoNvfp4&) {
  return torchao_nvfp4(absmax);
}
template <class T>
QSCALE_HD CompressedNvfp4 of_tensor(float absmax, const CompressedNvfp4&) {
  return compressed_nvfp4<T>(absmax);
}
template <class T>
QSCALE_HD ModeloptNvfp4 of_tensor(float absmax, const ModeloptNvfp4&) {
  return modelopt_nvfp4(absmax);
}
template <class T>
QSCALE_HD TeNvfp4 of_tensor(float absmax, const TeNvfp4&) {
  return te_nvfp4(absmax);
}

}  // namespace qscale::dialects
