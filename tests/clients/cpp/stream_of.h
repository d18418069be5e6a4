#pragma once

#include <string>
#include <vector>

#include "optserve/client/client.h"

namespace optserve::client {

// The texts of a stream's events, and how it ended.
struct Streamed {
  std::vector<std::string> texts;
  absl::Status status;
};

inline Streamed StreamOf(const Client& client, const CallOptions& options = {}) {
  v1::CompletionRequest request;
  request.add_prompt()->set_text("a");
  Streamed streamed;
  streamed.status = client.Stream(
      request, [&](const v1::CompletionEvent& event) { streamed.texts.push_back(event.choices(0).text()); }, options);
  return streamed;
}

}  // namespace optserve::client
