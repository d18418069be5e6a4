#pragma once

#include <memory>
#include <mutex>
#include <utility>

#include "absl/base/thread_annotations.h"

namespace optserve {

// A value that is read whole and replaced whole, such as settings that may change while others go by them. Any thread.
template <typename T>
class Replaceable {
 public:
  explicit Replaceable(T value) : value_(std::make_shared<const T>(std::move(value))) {}

  // What holds now; it stays what it is for who has it.
  std::shared_ptr<const T> Get() const {
    const std::lock_guard lock(mu_);
    return value_;
  }

  void Replace(T value) {
    auto next = std::make_shared<const T>(std::move(value));
    const std::lock_guard lock(mu_);
    value_.swap(next);
  }

 private:
  mutable std::mutex mu_;
  std::shared_ptr<const T> value_ ABSL_GUARDED_BY(mu_);
};

}  // namespace optserve
