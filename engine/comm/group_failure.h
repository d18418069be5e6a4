#pragma once

#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"

namespace optserve {

// Why a group of ranks is at its end; the first reason stays. Any thread.
class GroupFailure {
 public:
  // False: there was a reason already.
  bool Set(const absl::Status& why) {
    const std::lock_guard lock(mu_);
    if (!failure_.ok()) return false;
    failure_ = why;
    return true;
  }
  absl::Status Get() const {
    const std::lock_guard lock(mu_);
    return failure_;
  }

 private:
  mutable std::mutex mu_;
  absl::Status failure_ ABSL_GUARDED_BY(mu_);
};

}  // namespace optserve
