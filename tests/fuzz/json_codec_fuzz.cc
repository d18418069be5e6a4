// A body of HTTP. What is taken is JSON for another reader too, means the same when it is written out again, and the
// same as a message of gRPC; what is refused has one line that says so, never another status than it should.

#include <nlohmann/json.hpp>

#include "engine/util/error_details.h"
#include "server/api/json_reader.h"
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
  FUZZ_CHECK(!FindInvalidUtf8(Param(status).value_or("")));
  FUZZ_CHECK(fuzz::Message(status).size() < 2048);
}

// Not the other way: we also refuse what nests too deep, has a key twice or a number that no double holds.
void CheckIsJson(std::string_view body) { FUZZ_CHECK(nlohmann::json::accept(body)); }

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view body = fuzz::Text(data, size);
  JsonReader reader(body);
  if (reader.Skip() && reader.Finish()) CheckIsJson(body);

  if (const auto request = DecodeCompletionRequest(body); request.ok()) {
    CheckIsJson(body);
    const auto from_json = DecodeCompletionRequest(fuzz::ToJson(*request));
    FUZZ_CHECK(from_json.ok() && fuzz::MeanTheSame(*request, *from_json));
    const auto from_message = DecodeCompletionRequest(fuzz::ToMessage(*request), request->stream);
    FUZZ_CHECK(from_message.ok() && fuzz::MeanTheSame(*request, *from_message));
    // Fields that are not known change nothing else.
    const auto lenient = DecodeCompletionRequest(body, {.ignore_unknown_fields = true});
    FUZZ_CHECK(lenient.ok() && fuzz::MeanTheSame(*request, *lenient));
  } else {
    CheckError(request.status());
  }
  if (const auto request = DecodeTokenizeRequest(body); request.ok()) {
    CheckIsJson(body);
    FUZZ_CHECK(!FindInvalidUtf8(request->prompt));
  } else {
    CheckError(request.status());
  }
  if (const auto request = DecodeDetokenizeRequest(body); request.ok()) {
    CheckIsJson(body);
    for (const int32_t id : request->tokens) FUZZ_CHECK(id >= 0);
  } else {
    CheckError(request.status());
  }
  return 0;
}
