// The bytes of a gRPC request. The first byte of the input chooses the method. What is taken means the same when it is
// written out again, and the same as a body of HTTP.

#include "engine/util/error_details.h"
#include "server/api/json_request.h"
#include "server/api/proto_codec.h"
#include "server/text/utf8.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/request_forms.h"

using namespace optserve;

namespace {

void CheckError(const absl::Status& status) {
  FUZZ_CHECK(absl::IsInvalidArgument(status) && !fuzz::Message(status).empty());
  FUZZ_CHECK(!FindInvalidUtf8(fuzz::Message(status)));
  FUZZ_CHECK(fuzz::Message(status).size() < 2048);
}

// What a list in JSON cannot: its prompts are all text or all ids.
bool MixesTextAndIds(const CompletionRequest& request) {
  return std::any_of(request.prompts.begin(), request.prompts.end(),
                     [&](const Prompt& prompt) { return prompt.index() != request.prompts[0].index(); });
}

void Completion(std::string_view bytes, bool stream) {
  v1::CompletionRequest message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return;
  const auto request = DecodeCompletionRequest(message, stream);
  if (!request.ok()) return CheckError(request.status());
  const auto from_message = DecodeCompletionRequest(fuzz::ToMessage(*request), stream);
  FUZZ_CHECK(from_message.ok() && fuzz::MeanTheSame(*request, *from_message));
  if (MixesTextAndIds(*request)) return;
  const auto from_json = DecodeCompletionRequest(fuzz::ToJson(*request));
  FUZZ_CHECK(from_json.ok() && fuzz::MeanTheSame(*request, *from_json));
}

template <typename Message, typename Decode>
void Small(std::string_view bytes, Decode decode) {
  Message message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return;
  const absl::Status status = decode(message);
  if (!status.ok()) CheckError(status);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes = fuzz::Text(data + 1, size - 1);
  switch (data[0] % 4) {
    case 0:
    case 1:
      Completion(bytes, data[0] % 4 == 1);
      break;
    case 2:
      Small<v1::TokenizeRequest>(bytes, [](const auto& message) { return DecodeTokenizeRequest(message).status(); });
      break;
    case 3:
      Small<v1::DetokenizeRequest>(bytes, [](const auto& message) {
        const auto request = DecodeDetokenizeRequest(message);
        if (request.ok()) {
          for (const int32_t id : request->tokens) FUZZ_CHECK(id >= 0);
        }
        return request.status();
      });
      break;
  }
  return 0;
}
