#pragma once

#include <string>
#include <string_view>

#include "engine/util/log.h"
#include "server/api/completion.h"

// The log's lines of a completion, the same whichever protocol it came by. No prompt, no text and no key is in them.

namespace optserve {

inline constexpr int kClientHasLeft = 499;  // as a status in the log; nginx's number for it

// What every line of a completion begins with.
struct LoggedRequest {
  std::string_view protocol;  // "http" or "grpc"
  std::string request_id;
  std::string trace_id;  // empty: it is in no trace
};

// What came of a completion.
struct LoggedAnswer {
  std::string id;          // "cmpl-..."
  std::string api_key_id;  // empty: anonymous
  int status = 200;        // of HTTP; gRPC's codes have their numbers by ToHttpError, as the same error over HTTP
  double seconds = 0.0;    // from when the request had come until the answer was out
  Usage usage;             // as far as the client was told
};

// `completion ...`. No log: nothing happens.
void LogCompletion(const Log* log, const LoggedRequest& request, const LoggedAnswer& answer);

// `request_failed ...`: a failure of ours with what clients are not told. An empty `why` is none.
void LogFailure(const Log* log, const LoggedRequest& request, std::string_view why);

}  // namespace optserve
