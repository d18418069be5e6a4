#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/util/log.h"
#include "server/api/field_schema.h"
#include "server/api/json_request.h"
#include "server/completion/completion_service.h"
#include "server/http/http_limits.h"

struct ssl_ctx_st;

namespace optserve {

class Tracer;

// The HTTP front: sockets, TLS, HTTP/1.1, the routes of server/README.md. No HTTP/2.
//
// It answers from the moment it has started, so that a taken port is known before a model is loaded: probes at once,
// completions with 503 model_loading until Serve() says who makes them.
//
// Threads  Start returns with io_threads + worker_threads of its own running. Any thread may call any member; Stop and
//          the destructor from one thread, and not from a callback.
class HttpServer {
 public:
  struct Options {
    std::string host = "127.0.0.1";  // a name or an address; a name that has several is bound at its first
    uint16_t port = 8000;            // 0: any free one
    int io_threads = 2;              // each serves its share of the connections
    int worker_threads = 1;          // parse and print what is too long for an I/O thread
    HttpLimits limits;
    JsonDecodeOptions decode;               // of bodies
    std::vector<NamedLimit> engine_limits;  // more for /v1/capabilities to name

    // All are called on I/O threads: from memory, at once.
    std::function<absl::Status()> ready;   // not OK: /readyz and its like are 503 with the message
    std::function<std::string()> metrics;  // Prometheus text

    // From the header Authorization (empty: there is none) and the client's address to the id of its key; an error is
    // the answer. None: everybody is anonymous. Probes, /metrics and /version are open to all unless told otherwise.
    std::function<absl::StatusOr<std::string>(std::string_view authorization, std::string_view address)> authorize;
    bool probes_need_key = false;
    bool metrics_need_key = false;

    // What a new connection's TLS is made with, from memory; none: everything is in clear.
    std::function<std::shared_ptr<ssl_ctx_st>()> tls;

    // Records the part of completions in traces; none: a traceparent is passed on. Outlives the server.
    const Tracer* tracer = nullptr;

    // Gets the lines of server/completion/completion_log.h. None: nothing is logged. Outlives the server.
    const Log* log = nullptr;
  };

  // Binds, listens and serves. Errors are a line for the user that names host and port: InvalidArgument (no such host),
  // FailedPrecondition (the port is taken), PermissionDenied, or whatever else bind(2) says.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(Options options);

  // Stops.
  ~HttpServer();

  // The port that is bound.
  uint16_t port() const;

  // "http://127.0.0.1:8000", to be printed.
  std::string url() const;

  // How long the I/O thread that was last heard of has been silent: well below a second, or it hangs.
  std::chrono::milliseconds Silence() const;

  // The model is there: completions are made by `service`, which outlives Stop(). Once.
  void Serve(CompletionService& service);

  // For requests that begin from now on; those under way go by the limits that they began with.
  void SetLimits(const HttpLimits& limits, const RequestLimits& request_limits);

  // From now on completions are refused with 503 shutting_down, and connections close with the answer they are at.
  // What runs goes on; probes are answered.
  void Drain();

  // Waits until no completion runs and every answer is written, at most that long; true if so.
  bool WaitUntilIdle(std::chrono::milliseconds timeout);

  // Closes the door, cancels what runs (a stream's last words are an error event) and ends the threads. Idempotent.
  void Stop();

 private:
  class Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace optserve
