#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "server/api/completion.h"
#include "server/completion/completion_log.h"
#include "server/completion/completion_service.h"
#include "server/http/asio.h"
#include "server/http/client_socket.h"
#include "server/http/completion_answer.h"
#include "server/http/io_loop.h"
#include "server/http/request_parser.h"
#include "server/http/routes.h"
#include "server/http/server_state.h"
#include "server/http/wakeup.h"
#include "server/http/worker_pool.h"
#include "server/tracing/request_trace.h"

namespace optserve {

// One client's connection: a coroutine that reads a request, answers it, and goes on with the next, in the order they
// came. It waits in one place, for "input, output, events, time, or the end" (Wakeup), so that a client that leaves is
// noticed whatever the connection is at.
//
// A client that closes its sending side counts as gone, as it does for most servers: nothing tells the two apart.
//
// Threads: its loop's alone.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  // `tls`: see ClientSocket.
  Connection(std::shared_ptr<IoLoop> loop, TcpSocket socket, const std::shared_ptr<ssl_ctx_st>& tls,
             ServerState& server, WorkerPool& workers);
  ~Connection();

  // Serves until the client or the server has had enough; the loop holds the connection meanwhile.
  void Start();

  // Called by the loop.
  bool IsDue(Clock::time_point now) const;  // time is up, or the client has left behind input that nobody reads yet
  void OnDue(Clock::time_point now);
  void OnNotice() { wakeup_.Set(kEvents); }
  void OnStop();
  size_t loop_index() const { return loop_index_; }
  void set_loop_index(size_t index) { loop_index_ = index; }

 private:
  enum Reason : unsigned { kInput = 1, kOutput = 2, kEvents = 4, kWork = 8, kDeadline = 16, kEnd = 32 };

  Task<void> Run();

  // TLS, if it is spoken here. False: there is nobody to speak it with.
  Task<bool> Handshake();

  // Reads to the end of the next request, and decides by its header. False: there will be none; it has answered if
  // there was something to say.
  Task<bool> ReadRequest(bool is_first);
  void UseLimitsInForce();
  void DecideByHeader();
  void JoinTrace();
  void LeaveTrace();
  absl::StatusOr<std::string> Authorize(const Route& route) const;  // the key's id

  // These answer the request and return whether the connection can go on with another.
  Task<bool> Answer(HttpRequest request);
  Task<bool> Complete(const HttpRequest& request);
  Task<bool> AnswerStreamed(CompletionCall& call, CompletionAnswer& answer);
  Task<bool> AnswerWhole(CompletionCall& call, CompletionAnswer& answer);
  Task<bool> Send(const HttpResponse& response);
  Task<bool> Refuse(const HttpResponse& response);  // ... and closes

  // Sends what is in out_; returns whether the client has taken it and the connection can go on.
  Task<bool> Flush();

  // The last of it: lets the client read what was sent to it before the socket goes.
  Task<void> Close();

  // f() on a worker.
  template <typename Function>
  Task<std::invoke_result_t<Function>> OnWorker(Function f);

  void LogFailure(std::string_view why) const;
  void LogCompletion(const CompletionAnswer& answer, Clock::time_point begin) const;
  LoggedRequest Logged() const;

  void WatchInput();
  void ReadInput();
  void WatchOutput();
  void WriteOutput();
  bool HasUnreadInput() const { return in_begin_ < in_.size(); }
  size_t output_size() const { return out_.size() - out_begin_; }
  void ChargeBody(size_t bytes);
  void SetDeadline(std::chrono::milliseconds from_now);
  void ClearDeadline();
  ResponseFraming Framing();

  const std::shared_ptr<IoLoop> loop_;
  ClientSocket socket_;
  ServerState& server_;
  WorkerPool& workers_;
  Wakeup wakeup_;
  size_t loop_index_ = 0;
  Clock::time_point deadline_ = Clock::time_point::max();

  bool gone_ = false;     // the client has closed its side
  bool broken_ = false;   // and nothing can be sent either
  bool stopped_ = false;  // the server ends

  RequestParser parser_;
  std::string in_;  // bytes read; from in_begin_ on not yet parsed
  size_t in_begin_ = 0;
  bool input_watched_ = false;
  bool is_open_ = false;    // past the handshake: what comes is for us
  size_t body_charge_ = 0;  // of server_.buffered_body_bytes

  std::string out_;  // bytes to send, from out_begin_ on
  size_t out_begin_ = 0;
  bool output_watched_ = false;
  size_t taken_ = 0;  // sent since the stall deadline was set

  // Of the current request.
  std::shared_ptr<const LimitsInForce> limits_;  // of the connection until the first one begins
  RouteMatch match_;
  std::optional<HttpResponse> refusal_;  // known since its header
  std::string api_key_id_;               // empty: anonymous
  std::string request_id_;
  RequestTracing tracing_;   // of a completion
  std::string traceparent_;  // of its answer
  int status_ = 0;           // of its answer
  int minor_version_ = 1;
  bool keep_alive_ = true;
  bool is_head_ = false;
};

}  // namespace optserve
