// Columns rounded one after the other, the error of each fed into those after it, rows side by side in vectors.
#pragma once

#include "cpu/feedback_job.h"
#include "cpu/round_trips.h"

namespace qscale::cpu {
namespace {

// The doubles of a register, and the registers of a part of the rows: the errors need some too.
#if defined(__AVX512F__)
constexpr int64_t kLane = 8;
#elif defined(__AVX2__)
constexpr int64_t kLane = 4;
#else
constexpr int64_t kLane = 2;
#endif
constexpr int64_t kLanesAtOnce = 8;
typedef double Lane __attribute__((vector_size(kLane * sizeof(double))));

// The values of feedback_rows rows less the errors of `before` columns, each by its part of the factor. The values stay
// in registers from the first column to the last.
[[maybe_unused]] static void less_errors(double* values, const double* errors, const double* factor, int64_t before,
                                         int64_t stride) {
  for (int64_t row = 0; row < feedback_rows; row += kLanesAtOnce * kLane) {
    Lane v[kLanesAtOnce];
#pragma GCC unroll 8
    for (int64_t k = 0; k < kLanesAtOnce; ++k) memcpy(&v[k], values + row + k * kLane, sizeof(Lane));
    for (int64_t j = 0; j < before; ++j) {
      const double part = factor[j * stride];
#pragma GCC unroll 8
      for (int64_t k = 0; k < kLanesAtOnce; ++k) {
        Lane e;
        memcpy(&e, errors + j * feedback_rows + row + k * kLane, sizeof(Lane));
        v[k] -= e * part;
      }
    }
#pragma GCC unroll 8
    for (int64_t k = 0; k < kLanesAtOnce; ++k) memcpy(values + row + k * kLane, &v[k], sizeof(Lane));
  }
}

template <class Element>
void feedback(const Feedback<Element>& shared, int64_t first, int64_t last, double* scratch) {
  const Feedback<Element> job = shared;  // a copy: writes through y cannot change it
  double values[feedback_rows];
  Chunk c;
  for (int64_t row = first; row < last; row += feedback_rows) {
    const int64_t some = last - row < feedback_rows ? last - row : feedback_rows;
    // Rows that are not there are zeros under a scale of 1.
    for (int64_t r = 0; r < feedback_rows; ++r) values[r] = 0.0, c.scale[r] = 1.0f, c.zero[r] = 0.0f;
    for (int64_t i = 0; i < job.columns; ++i) {
      const int64_t at = i * job.rows + row;
      memcpy(values, job.x + at, static_cast<size_t>(some) * sizeof(double));
      less_errors(values, scratch, job.factor + i, i, job.columns);
      for (int64_t r = 0; r < feedback_rows; ++r) c.x[r] = static_cast<float>(values[r]);
      memcpy(c.scale, job.scale + at, static_cast<size_t>(some) * sizeof(float));
      if (job.zero_point != nullptr) {
        for (int64_t r = 0; r < some; ++r) c.zero[r] = zero_point_in_use(job.zero_point[at + r], job.element);
      }
      round_trip(c, feedback_rows, job.element, nullptr);
      const double own = job.factor[i * job.columns + i];
      double* errors = scratch + i * feedback_rows;
      for (int64_t r = 0; r < feedback_rows; ++r) errors[r] = (values[r] - static_cast<double>(c.x[r])) / own;
      memcpy(job.y + at, c.x, static_cast<size_t>(some) * sizeof(float));
      memcpy(job.errors + at, errors, static_cast<size_t>(some) * sizeof(double));
    }
  }
}

constexpr FeedbackKernels kFeedback = {feedback<IntGrid>, feedback<FloatGrid>, feedback<Codebook>};

}  // namespace
}  // namespace qscale::cpu
