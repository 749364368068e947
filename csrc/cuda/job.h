// What a launch is asked: a job as the CPU has it, and where its tensors lie. Compiled by the C++ compiler too.
#pragma once

#include "jobs.h"
#include "numerics/ends.h"

namespace qscale::cuda {

// The ends of the whole tensor, in parts: one of each block of the kernel that looked for them.
struct Parts {
  const Ends* each = nullptr;
  int count = 0;
};

template <class Element_>
struct Job : FakeQuant<Element_> {
  using Element = Element_;
  Parts parts;                // where one of these asks for the tensor as a whole:
  bool tensor_level = false;  // its scale, beside those of the groups
  bool one_range = false;     // its range, which serves every group
  int64_t scale_count = 0;    // of the caller's scales, where they are fewer than groups and are repeated
  int64_t x_stride = 0;       // elements of x from a row to the next; those of y lie without gaps
};

}  // namespace qscale::cuda
