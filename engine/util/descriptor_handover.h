#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace optserve {

// A descriptor of this process for another one of the same user and machine that knows the name of the offer: a socket
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
  // Answers who asks. The first of the same user gets a copy of `descriptor`.
  void Answer(int descriptor);

 private:
  std::string name_;
  int listening_ = -1;
};

// The descriptor offered under `name`. Internal: nobody of the same user offers one.
absl::StatusOr<int> FetchDescriptor(const std::string& name);

}  // namespace optserve
