#pragma once

#include <string>
#include <string_view>

namespace optserve {

// The name of a request in logs and in its answer's x-request-id (gRPC: metadata of that name): the client's own, if it
// is 1 to 128 letters, digits or one of "-_.:/+=", else a new one, "req-" and 32 hexadecimal digits.
std::string RequestIdFor(std::string_view sent);

}  // namespace optserve
