// A frame between front end and engine process, from either side. What it becomes survives another crossing unchanged.

#include "engine/process_frames.h"
#include "tests/fuzz/fuzz.h"

using namespace optserve;

namespace {

// Message to struct to message to struct to message: the two messages have the same bytes.
template <typename Message>
void CheckCrossing(const Message& message) {
  Message once;
  ToProto(FromProto(message), &once);
  Message twice;
  ToProto(FromProto(once), &twice);
  FUZZ_CHECK(once.ByteSizeLong() == twice.ByteSizeLong());
  // The payloads of a status are a map, whose order is not kept; sizes alone are compared there.
  if constexpr (!std::is_same_v<Message, internal::Status> && !std::is_same_v<Message, internal::TokenEvent>) {
    FUZZ_CHECK(once.SerializeAsString() == twice.SerializeAsString());
  }
}

void FromFrontEnd(std::string_view bytes) {
  internal::ToEngine frame;
  if (!frame.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return;
  if (frame.has_submit()) CheckCrossing(frame.submit());
}

void FromEngineProcess(std::string_view bytes) {
  internal::FromEngine frame;
  if (!frame.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return;
  for (const internal::TokenEvent& event : frame.events().events()) CheckCrossing(event);
  if (frame.has_ready()) CheckCrossing(frame.ready().model());
  if (frame.has_stats()) CheckCrossing(frame.stats());
  if (frame.has_death()) CheckCrossing(frame.death());
  if (frame.has_start_failed()) CheckCrossing(frame.start_failed());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes = fuzz::Text(data + 1, size - 1);
  data[0] % 2 == 0 ? FromFrontEnd(bytes) : FromEngineProcess(bytes);
  return 0;
}
