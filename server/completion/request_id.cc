#include "server/completion/request_id.h"

#include <fmt/format.h>
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include "absl/strings/ascii.h"

namespace optserve {
namespace {

constexpr size_t kMaxBytes = 128;
constexpr std::string_view kPunctuation = "-_.:/+=";

bool IsSane(std::string_view id) {
  return !id.empty() && id.size() <= kMaxBytes && std::all_of(id.begin(), id.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || kPunctuation.find(c) != kPunctuation.npos;
  });
}

}  // namespace

std::string RequestIdFor(std::string_view sent) {
  if (IsSane(sent)) return std::string(sent);
  std::array<uint64_t, 2> random{};
  // Up to 256 bytes come whole or not at all, and not at all only before the kernel has any randomness; then it is 0.
  (void)getrandom(random.data(), sizeof(random), GRND_NONBLOCK);
  return fmt::format("req-{:016x}{:016x}", random[0], random[1]);
}

}  // namespace optserve
