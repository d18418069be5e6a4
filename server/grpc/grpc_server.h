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
#include "server/api/completion_fields.h"
#include "server/completion/completion_service.h"

namespace optserve {

class Tracer;

// The gRPC front: optserve.v1.Completion (proto/optserve/v1/completion.proto), grpc.health.v1 and server reflection.
//
// It answers from the moment it has started, so that a taken port is known before a model is loaded: health at once,
// calls with UNAVAILABLE model_loading until Serve() says who makes completions.
//
// Health is SERVING for "" while the process lives, and for "optserve.v1.Completion" while it can be used: after Serve,
// while `ready` says OK, and not from Drain on.
//
// Threads  Start returns with one of our own and gRPC's running. Any thread may call any member; Stop and the
// destructor
//          from one thread, and not from a callback.
class GrpcServer {
 public:
  struct Options {
    std::string host = "127.0.0.1";  // a name or an address; a name that has several is bound at its first
    uint16_t port = 8001;            // 0: any free one
    std::string served_model_name;
    RequestLimits limits;
    bool ignore_unknown_fields = false;        // field numbers of a request that we do not know; else they are refused
    int max_request_bytes = 16 * 1024 * 1024;  // a larger message is RESOURCE_EXHAUSTED
    int max_calls_per_connection = 1024;       // more wait in the client
    // For what connections have sent and calls keep, of all clients together. At its limit gRPC reads no more, and ends
    // calls and connections.
    size_t max_memory_bytes = 256 << 20;
    std::chrono::milliseconds stall_time{30'000};  // for a stream's reader to take one event before it is cancelled

    // A connection that says nothing for keepalive_time is asked, and closed if it does not answer within
    // keepalive_timeout. A client that asks more often than min_ping_interval is closed with GOAWAY too_many_pings.
    std::chrono::milliseconds keepalive_time{60'000};
    std::chrono::milliseconds keepalive_timeout{20'000};
    std::chrono::milliseconds min_ping_interval{10'000};

    // From memory, at once; asked several times a second. None: always OK.
    std::function<absl::Status()> ready;

    // From `authorization` of the call's metadata (empty: it has none) and the client's address to the id of the key,
    // or Unauthenticated. Asked for calls of Completion, not for health and reflection. None: everybody is anonymous.
    std::function<absl::StatusOr<std::string>(std::string_view authorization, std::string_view address)> authorize;

    // PEM of the certificate, those that lead to a root, and the key; looked at every second, and new connections get
    // what it then holds. Empty: everything is in clear.
    std::string tls_bundle_file;

    // Records the part of completions in traces; none: a traceparent is passed on. Outlives the server.
    const Tracer* tracer = nullptr;

    // Gets the lines of server/completion/completion_log.h, and a warning when `host` is not loopback. None: nothing is
    // logged. Outlives the server.
    const Log* log = nullptr;
  };

  // Binds, listens and serves. Errors are a line for the user that names host and port: InvalidArgument (no such host),
  // FailedPrecondition (the port is taken), PermissionDenied, or whatever else bind(2) says.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(Options options);

  // Stops.
  ~GrpcServer();

  // The port that is bound.
  uint16_t port() const;

  // "127.0.0.1:8001", as clients take it.
  std::string address() const;

  // The model is there: completions are made by `service`, which outlives Stop(). Once.
  void Serve(CompletionService& service);

  // For calls that begin from now on. Not max_request_bytes, which gRPC takes once.
  void SetLimits(const RequestLimits& limits, std::chrono::milliseconds stall_time);

  // From now on calls are refused with UNAVAILABLE shutting_down. What runs goes on; health is answered.
  void Drain();

  // Waits until no completion runs, at most that long; true if so.
  bool WaitUntilIdle(std::chrono::milliseconds timeout);

  // Closes the door, cancels what runs (CANCELLED for the client) and ends the threads. Idempotent.
  void Stop();

 private:
  class Impl;
  explicit GrpcServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace optserve
