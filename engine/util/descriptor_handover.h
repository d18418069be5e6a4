#pragma once

#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace optserve {

// Descriptors of this process for another one of the same user and machine that knows the name of the offer: a socket
// in the abstract namespace, so there is no file that could be left behind.
class DescriptorOffer {
 public:
  DescriptorOffer() = default;
  ~DescriptorOffer();
  DescriptorOffer(const DescriptorOffer&) = delete;
  DescriptorOffer& operator=(const DescriptorOffer&) = delete;

  absl::Status Open();
  const std::string& name() const { return name_; }  // cannot be guessed

  // Readable when somebody asks; -1 once the offer was taken.
  int fd() const { return listening_; }
  // Answers who asks. The first of the same user gets copies of `descriptors`, at most kMax.
  void Answer(std::span<const int> descriptors);

  static constexpr size_t kMax = 4;

 private:
  std::string name_;
  int listening_ = -1;
};

// The `count` descriptors offered under `name`. Internal: nobody of the same user offers them.
absl::StatusOr<std::vector<int>> FetchDescriptors(const std::string& name, size_t count);

}  // namespace optserve
