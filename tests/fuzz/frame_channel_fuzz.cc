// Bytes on the socket between front end and engine process. Whole messages come out as they are, then the channel says
// that the peer has gone; a message longer than any of ours is not waited for.

#include <sys/socket.h>
#include <unistd.h>

#include "engine/util/frame_channel.h"
#include "tests/fuzz/fuzz.h"

using namespace optserve;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr size_t kMaxInput = 64 * 1024;  // fits into the socket's buffer, so that one thread is enough
  if (size > kMaxInput) return 0;
  int ends[2];
  FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  FUZZ_CHECK(write(ends[1], data, size) == static_cast<ssize_t>(size));
  close(ends[1]);
  FrameChannel channel(ends[0]);
  std::string_view rest = fuzz::Text(data, size);
  while (true) {
    const auto frame = channel.Receive();
    if (!frame.ok()) {
      FUZZ_CHECK(absl::IsUnavailable(frame.status()));
      break;
    }
    uint32_t length = 0;
    FUZZ_CHECK(rest.size() >= sizeof(length));
    std::memcpy(&length, rest.data(), sizeof(length));
    rest.remove_prefix(sizeof(length));
    FUZZ_CHECK(*frame == rest.substr(0, length) && frame->size() == length);
    rest.remove_prefix(length);
  }
  uint32_t length = 0;
  if (rest.size() >= sizeof(length)) std::memcpy(&length, rest.data(), sizeof(length));
  FUZZ_CHECK(rest.size() < sizeof(length) || length > rest.size() - sizeof(length));
  return 0;
}
