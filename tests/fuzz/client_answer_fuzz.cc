// What a server sends to the client library: the first byte says where the rest is cut. As a stream it is the same
// events however it comes, and each of them, like the rest as a whole body, is an answer or an error that says so; what
// is taken is JSON for another reader, and its texts are UTF-8.

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "clients/cpp/json_codec.h"
#include "clients/cpp/sse_reader.h"
#include "server/text/utf8.h"
#include "tests/fuzz/fuzz.h"

using namespace optserve;
using namespace optserve::client;

namespace {

// The data of all events, when the bytes come in pieces of that many.
std::vector<std::string> Events(std::string_view bytes, size_t piece) {
  SseReader reader(size_t{1} << 20);  // more than any input has
  std::vector<std::string> events;
  std::string data;
  while (!bytes.empty()) {
    const size_t size = std::min(piece, bytes.size());
    reader.Feed(bytes.substr(0, size));
    bytes.remove_prefix(size);
    while (true) {
      const absl::StatusOr<bool> found = reader.Next(data);
      FUZZ_CHECK(found.ok());
      if (!*found) break;
      events.push_back(data);
    }
  }
  return events;
}

void CheckTexts(std::string_view body, const std::string& a, const std::string& b = "") {
  FUZZ_CHECK(nlohmann::json::accept(body));
  FUZZ_CHECK(!FindInvalidUtf8(a) && !FindInvalidUtf8(b));
}

void CheckRefusal(const absl::Status& status) { FUZZ_CHECK(!status.ok() && !fuzz::Message(status).empty()); }

template <typename Answer>
void CheckAnswer(std::string_view body, const absl::StatusOr<Answer>& answer) {
  if (!answer.ok()) return CheckRefusal(answer.status());
  if constexpr (std::is_same_v<Answer, v1::CompletionResponse>) {
    CheckTexts(body, answer->id(), answer->choices_size() > 0 ? answer->choices(0).text() : "");
  } else if constexpr (std::is_same_v<Answer, v1::DetokenizeResponse>) {
    CheckTexts(body, answer->prompt());
  } else {
    CheckTexts(body, "");
  }
}

// An event may be refused with nothing to say: {"error":{}} tells no more than that.
void CheckEvent(const std::string& data) {
  v1::CompletionEvent event;
  if (!DecodeEvent(data, event).ok()) return;
  CheckTexts(data, event.id(), event.choices_size() > 0 ? event.choices(0).text() : "");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text = fuzz::Text(data, size).substr(1);
  const std::vector<std::string> events = Events(text, text.size() + 1);
  FUZZ_CHECK(events == Events(text, 1));
  FUZZ_CHECK(events == Events(text, 1 + data[0]));
  for (const std::string& event : events) {
    FUZZ_CHECK(event.find('\r') == event.npos);
    CheckEvent(event);
  }

  SseReader short_reader(16);
  short_reader.Feed(text);
  std::string event;
  for (absl::StatusOr<bool> found = true; found.ok() && *found; found = short_reader.Next(event)) {
    FUZZ_CHECK(event.size() <= 16 + text.size());
  }

  CheckAnswer(text, DecodeCompletion(text));
  CheckAnswer(text, DecodeTokenize(text));
  CheckAnswer(text, DecodeDetokenize(text));
  CheckAnswer(text, DecodeModels(text));
  CheckRefusal(DecodeError(500, text, {}));
  return 0;
}
