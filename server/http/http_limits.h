#pragma once

#include <chrono>
#include <cstddef>

namespace optserve {

// What a client may take of the server, before and while it is served. The defaults are the API's (server/README.md).
struct HttpLimits {
  size_t header_bytes = 16 * 1024;                   // request line and fields together; more is 431
  size_t header_fields = 100;                        // more is 431
  size_t target_bytes = 8 * 1024;                    // path and query; more is 414
  size_t body_bytes = 16 * 1024 * 1024;              // more is 413; for text, RequestLimits has less
  size_t buffered_body_bytes = 512 * 1024 * 1024;    // bodies of all connections together; more is 429
  size_t stream_bytes = 256 * 1024;                  // made for a stream and not yet taken by the socket
  size_t send_buffer_bytes = 256 * 1024;             // the kernel's, for each connection
  int connections = 8192;                            // more are told 503 and closed
  std::chrono::milliseconds handshake_time{10'000};  // of TLS
  std::chrono::milliseconds header_time{10'000};     // from a request's first byte to the end of its header
  std::chrono::milliseconds body_time{30'000};       // from there to the end of its body
  std::chrono::milliseconds idle_time{75'000};       // between two requests of a connection
  std::chrono::milliseconds stall_time{30'000};      // for a reader to take stream_bytes, or all there is
};

}  // namespace optserve
