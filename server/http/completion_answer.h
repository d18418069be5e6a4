#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "server/api/completion.h"
#include "server/api/json_response.h"
#include "server/http/response.h"

namespace optserve {

class CompletionCall;

// How the events of one completion look on the wire: one JSON answer, or server-sent events. No sockets; one thread.
//
// A stream's bytes are chunks of HTTP/1.1, one for each Append call however many events it has; for HTTP/1.0 the events
// as they are, until the connection closes.
class CompletionAnswer {
 public:
  CompletionAnswer(const CompletionRequest& request, std::string_view model, bool chunked);

  // What the service has named the call.
  void Begin(const CompletionCall& call);

  // All of a request that was not streamed: one event per choice, in any order.
  HttpResponse Whole(std::vector<CompletionEvent>& events);

  // Whether Whole() takes milliseconds rather than microseconds.
  static bool IsLong(std::span<const CompletionEvent> events);

  void AppendEvents(std::span<const CompletionEvent> events, std::string& out);
  void AppendEnd(std::string& out) const;
  void AppendError(const absl::Status& error, std::string& out) const;

  const CompletionHead& head() const { return head_; }
  const Usage& usage() const { return usage_; }  // so far

 private:
  void AppendFramed(std::string_view sse, std::string& out) const;

  CompletionHead head_;
  CompletionFormat format_;
  bool chunked_ = true;
  Usage usage_;
  std::string sse_;  // of one call; kept for its memory
};

}  // namespace optserve
