#include "server/http/completion_answer.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "server/completion/completion_service.h"

namespace optserve {
namespace {

constexpr size_t kLongTextBytes = 64 * 1024;
constexpr size_t kLongLogprobs = 256;
constexpr std::string_view kLastChunk = "0\r\n\r\n";

}  // namespace

CompletionAnswer::CompletionAnswer(const CompletionRequest& request, std::string_view model, bool chunked)
    : head_{.model = std::string(model)}, format_(FormatOf(request)), chunked_(chunked) {}

void CompletionAnswer::Begin(const CompletionCall& call) {
  head_.id = call.id();
  head_.created = call.created();
  head_.system_fingerprint = call.system_fingerprint();
}

HttpResponse CompletionAnswer::Whole(std::vector<CompletionEvent>& events) {
  if (!events.empty()) usage_ = events.back().usage;
  std::sort(events.begin(), events.end(),
            [](const CompletionEvent& a, const CompletionEvent& b) { return a.index < b.index; });
  return {.body = EncodeCompletion(head_, format_, events, usage_)};
}

bool CompletionAnswer::IsLong(std::span<const CompletionEvent> events) {
  size_t text_bytes = 0;
  size_t logprobs = 0;
  for (const CompletionEvent& event : events) {
    text_bytes += event.text.size();
    logprobs += event.logprobs.size() + event.prompt_logprobs.size();
  }
  return text_bytes > kLongTextBytes || logprobs > kLongLogprobs;
}

void CompletionAnswer::AppendEvents(std::span<const CompletionEvent> events, std::string& out) {
  if (events.empty()) return;
  sse_.clear();
  for (const CompletionEvent& event : events) AppendChunk(sse_, head_, format_, event);
  usage_ = events.back().usage;
  AppendFramed(sse_, out);
}

void CompletionAnswer::AppendEnd(std::string& out) const {
  std::string sse;
  AppendStreamEnd(sse, head_, format_, usage_);
  AppendFramed(sse, out);
  if (chunked_) out += kLastChunk;
}

void CompletionAnswer::AppendError(const absl::Status& error, std::string& out) const {
  std::string sse;
  AppendStreamError(sse, error);
  AppendFramed(sse, out);
  if (chunked_) out += kLastChunk;
}

void CompletionAnswer::AppendFramed(std::string_view sse, std::string& out) const {
  if (!chunked_) {
    out += sse;
    return;
  }
  fmt::format_to(std::back_inserter(out), "{:x}\r\n", sse.size());
  out += sse;
  out += "\r\n";
}

}  // namespace optserve
