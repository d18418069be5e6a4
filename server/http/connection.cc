#include "server/http/connection.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <utility>

#include "engine/util/error_details.h"
#include "engine/util/status.h"
#include "server/api/error_codec.h"
#include "server/api/json_request.h"
#include "server/completion/completion_log.h"
#include "server/completion/request_id.h"
#include "server/http/admin_routes.h"
#include "server/http/ascii.h"

// What a connection says: requests are read and decided, answers are written. connection_io.cc has the socket.

namespace optserve {
namespace {

using boost::system::error_code;

constexpr size_t kInlineBodyBytes = 16 * 1024;  // longer ones are parsed by a worker
// A refused body up to here is read, so that the connection can go on.
constexpr size_t kUncheckedBodyBytes = 64 * 1024;

bool IsJson(std::string_view content_type) {
  const std::string_view type = Trim(content_type.substr(0, content_type.find(';')));
  return type.empty() || EqualsIgnoreCase(type, "application/json");
}

HttpResponse UnsupportedMediaType(std::string_view content_type) {
  return ErrorResponse(415,
                       fmt::format("Content-Type is {}, but the body must be JSON: send the header Content-Type: "
                                   "application/json (curl: -H 'Content-Type: application/json', or --json)",
                                   content_type.substr(0, 100)),
                       "unsupported_media_type");
}

// Counts a completion as running, however its coroutine ends.
class RunningScope {
 public:
  explicit RunningScope(RunningCount& count) : count_(count) { count_.Add(); }
  ~RunningScope() { count_.Remove(); }
  RunningScope(const RunningScope&) = delete;
  RunningScope& operator=(const RunningScope&) = delete;

 private:
  RunningCount& count_;
};

// A notice that reaches the connection as long as this lives.
class NoticeScope {
 public:
  explicit NoticeScope(Connection& connection) { notice_->connection = &connection; }
  ~NoticeScope() { notice_->connection = nullptr; }
  NoticeScope(const NoticeScope&) = delete;
  NoticeScope& operator=(const NoticeScope&) = delete;

  const std::shared_ptr<Notice>& get() const { return notice_; }

 private:
  const std::shared_ptr<Notice> notice_ = std::make_shared<Notice>();
};

}  // namespace

Connection::Connection(std::shared_ptr<IoLoop> loop, TcpSocket socket, const std::shared_ptr<ssl_ctx_st>& tls,
                       ServerState& server, WorkerPool& workers)
    : loop_(std::move(loop)),
      socket_(std::move(socket), tls),
      server_(server),
      workers_(workers),
      parser_(server.options.limits),
      limits_(server.limits.Get()) {}

Connection::~Connection() {
  ChargeBody(0);
  --server_.num_connections;
}

Task<void> Connection::Run() {
  bool go_on = co_await Handshake();
  if (go_on) go_on = co_await ReadRequest(/*is_first=*/true);
  while (go_on) {
    go_on = co_await Answer(parser_.Take());
    LeaveTrace();
    ChargeBody(0);
    if (go_on) go_on = co_await ReadRequest(/*is_first=*/false);
  }
  LeaveTrace();  // of a request that did not come to its end
  co_await Close();
}

void Connection::UseLimitsInForce() {
  limits_ = server_.limits.Get();
  parser_.SetLimits(limits_->http);
}

Task<bool> Connection::ReadRequest(bool is_first) {
  UseLimitsInForce();
  SetDeadline(is_first ? limits_->http.header_time : limits_->http.idle_time);
  refusal_.reset();
  request_id_.clear();
  tracing_ = {};
  traceparent_.clear();
  status_ = kClientHasLeft;  // until there is an answer
  minor_version_ = 1;
  keep_alive_ = true;
  is_head_ = false;
  bool started = false;
  bool decided = false;
  for (;;) {
    if (!started && HasUnreadInput()) UseLimitsInForce();  // it may have waited long for this request
    while (HasUnreadInput() && !parser_.done() && !parser_.failed()) {
      in_begin_ += parser_.Feed(std::string_view(in_).substr(in_begin_));
      if (parser_.started() && !started) {
        started = true;
        SetDeadline(limits_->http.header_time);
      }
      if (parser_.header_done() && !decided && !parser_.failed()) {
        decided = true;
        SetDeadline(limits_->http.body_time);
        DecideByHeader();
        const bool is_long = parser_.content_length() > kUncheckedBodyBytes;
        if (refusal_ && !parser_.done() && (parser_.request().expects_continue || is_long)) {
          co_return co_await Refuse(*refusal_);
        }
        if (parser_.request().expects_continue && !parser_.done() && !HasUnreadInput()) {
          out_ += "HTTP/1.1 100 Continue\r\n\r\n";
          co_await Flush();
          if (broken_) co_return false;
          SetDeadline(limits_->http.body_time);
        }
      }
    }
    if (!HasUnreadInput()) {
      in_.clear();
      in_begin_ = 0;
    }
    if (parser_.failed()) {
      const std::string_view code = parser_.status() == 413 ? kRequestTooLarge : "";
      co_return co_await Refuse(ErrorResponse(parser_.status(), parser_.message(), code));
    }
    if (parser_.done()) break;
    if (parser_.body_size() > kUncheckedBodyBytes) {
      if (refusal_) co_return co_await Refuse(*refusal_);
      ChargeBody(parser_.body_size());
      if (server_.buffered_body_bytes > static_cast<int64_t>(limits_->http.buffered_body_bytes)) {
        co_return co_await Refuse(ErrorResponse(
            WithRetryAfter(ResourceExhausted("too many long requests are being received at the moment"), 2)));
      }
    }
    if (gone_) co_return false;
    WatchInput();
    const unsigned reason = co_await wakeup_.Next();
    if (stopped_) co_return false;
    if (reason & kDeadline) {
      if (!started) co_return false;
      co_return co_await Refuse(ErrorResponse(
          408, fmt::format("the {} did not come within {} s", decided ? "body" : "header",
                           (decided ? limits_->http.body_time : limits_->http.header_time) / std::chrono::seconds(1))));
    }
  }
  ClearDeadline();
  co_return true;
}

// All that can be known before the body is there: who is asked for, and whether it would be taken at all.
void Connection::DecideByHeader() {
  const HttpRequest& request = parser_.request();
  minor_version_ = request.minor_version;
  keep_alive_ = request.keep_alive;
  is_head_ = request.method == "HEAD";
  request_id_ = RequestIdFor(request.Field("x-request-id"));
  match_ = MatchRoute(request.method, request.path);
  if (match_.route == nullptr) {
    refusal_ = std::move(match_.refusal);
  } else if (absl::StatusOr<std::string> key = Authorize(*match_.route); !key.ok()) {
    refusal_ = ErrorResponse(key.status());
  } else if (api_key_id_ = *std::move(key); match_.route->method == "POST") {
    if (match_.route->handler == nullptr) JoinTrace();
    const std::string_view encoding = request.Field("content-encoding");
    if (!IsJson(request.Field("content-type"))) {
      refusal_ = UnsupportedMediaType(request.Field("content-type"));
    } else if (!encoding.empty() && !EqualsIgnoreCase(encoding, "identity")) {
      refusal_ = ErrorResponse(415, "the body must not be compressed", "unsupported_media_type");
    } else if (match_.route->handler == nullptr && server_.draining) {
      refusal_ = ErrorResponse(ShuttingDown());
    }
  }
}

// Only who may ask makes spans.
void Connection::JoinTrace() {
  const HttpRequest& request = parser_.request();
  tracing_ = BeginTrace(server_.options.tracer,
                        ParseTraceContext(request.Fields("traceparent"), request.Fields("tracestate")));
  if (tracing_.context) traceparent_ = FormatTraceparent(*tracing_.context);
}

// The answer is out, or there is nobody to take it.
void Connection::LeaveTrace() {
  if (tracing_.trace == nullptr) return;
  const int status = broken_ ? kClientHasLeft : status_;
  SpanAttributes attributes = {{"http.request.method", "POST"},
                               {"http.route", std::string(match_.route->path)},
                               {"http.response.status_code", int64_t{status}}};
  if (status >= 400) attributes.emplace_back("error.type", fmt::format("{}", status));
  tracing_.trace->Finish(std::move(attributes), /*failed=*/status >= 500);
  tracing_.trace.reset();
}

absl::StatusOr<std::string> Connection::Authorize(const Route& route) const {
  const HttpServer::Options& options = server_.options;
  const bool needs_key = route.access == RouteAccess::kKey ||
                         (route.access == RouteAccess::kProbe && options.probes_need_key) ||
                         (route.access == RouteAccess::kMetrics && options.metrics_need_key);
  if (!options.authorize || !needs_key) return std::string();
  error_code error;
  const asio::ip::tcp::endpoint peer = socket_.tcp().remote_endpoint(error);
  return options.authorize(parser_.request().Field("authorization"), error ? "" : peer.address().to_string());
}

Task<bool> Connection::Answer(HttpRequest request) {
  if (server_.draining) keep_alive_ = false;
  if (refusal_) co_return co_await Send(*refusal_);
  if (match_.route->handler == nullptr) {
    const RunningScope running(server_.running);
    co_return co_await Complete(request);
  }
  const RouteCall call{.request = request, .model = match_.model, .api_key_id = api_key_id_, .server = server_};
  if (request.body.size() <= kInlineBodyBytes) co_return co_await Send(match_.route->handler(call));
  const auto handle = [&] { return match_.route->handler(call); };
  const HttpResponse response = co_await OnWorker(handle);
  co_return co_await Send(response);
}

Task<bool> Connection::Complete(const HttpRequest& request) {
  CompletionService* const service = server_.service;
  if (service == nullptr) co_return co_await Send(ErrorResponse(ModelLoading()));

  const auto decode = [&] { return DecodeCompletionRequest(request.body, limits_->decode); };
  const Clock::time_point begin = Clock::now();
  absl::StatusOr<CompletionRequest> decoded = absl::UnknownError("");
  if (request.body.size() <= kInlineBodyBytes) {
    decoded = decode();
  } else {
    decoded = co_await OnWorker(decode);
  }
  if (!decoded.ok()) co_return co_await Send(ErrorResponse(decoded.status()));
  if (!match_.model.empty()) {
    if (decoded->model.empty()) decoded->model = match_.model;
    if (decoded->model != match_.model) {
      co_return co_await Send(ErrorResponse(WithParam(
          InvalidArgument("the path asks for model {}, but the body for {}", match_.model, decoded->model), "model")));
    }
  }

  decoded->api_key_id = api_key_id_;
  decoded->request_id = request_id_;
  const bool stream = decoded->stream;
  if (stream && minor_version_ == 0) keep_alive_ = false;  // the end of the stream is the end of the connection
  CompletionAnswer answer(*decoded, service->options().served_model_name, /*chunked=*/minor_version_ == 1);
  wakeup_.Clear(kEvents);
  const NoticeScope notice(*this);
  const std::shared_ptr<CompletionCall> call = service->Start(
      *std::move(decoded), [loop = loop_, notice = notice.get()] { loop->Notify(notice); }, tracing_.trace,
      std::chrono::duration_cast<std::chrono::nanoseconds>(begin.time_since_epoch()).count());
  answer.Begin(*call);
  bool go_on = false;
  if (stream) {
    go_on = co_await AnswerStreamed(*call, answer);
  } else {
    go_on = co_await AnswerWhole(*call, answer);
  }
  LogCompletion(answer, begin);
  co_return go_on;
}

Task<bool> Connection::AnswerWhole(CompletionCall& call, CompletionAnswer& answer) {
  std::vector<CompletionEvent> events;
  for (;;) {
    WatchInput();
    unsigned reason = 0;
    if (!gone_) reason = co_await wakeup_.Next();
    if (gone_ || stopped_) {
      call.Cancel();
      if (gone_) co_return false;
      co_return co_await Refuse(ErrorResponse(ShuttingDown()));
    }
    if ((reason & kEvents) == 0) continue;
    CompletionBatch batch = call.Take();
    if (!batch.error.ok()) co_return co_await Send(ErrorResponse(batch.error));
    std::move(batch.events.begin(), batch.events.end(), std::back_inserter(events));
    if (batch.done) break;
  }
  const auto encode = [&] { return answer.Whole(events); };
  HttpResponse response;
  if (CompletionAnswer::IsLong(events)) {
    response = co_await OnWorker(encode);
  } else {
    response = encode();
  }
  call.NoteAnswered();
  co_return co_await Send(response);
}

// The first batch decides the status. From then on: take what is new as long as the client takes what is there.
Task<bool> Connection::AnswerStreamed(CompletionCall& call, CompletionAnswer& answer) {
  bool has_begun = false;
  bool has_events = false;
  bool done = false;
  for (;;) {
    WatchInput();
    unsigned reason = 0;
    // Events that were held back while the client was behind are not told of again, and once it has taken all there was
    // the socket tells nothing either.
    const bool held_back = has_events && !done && output_size() == 0;
    if (!gone_ && !held_back) reason = co_await wakeup_.Next();
    if (gone_ || (reason & kDeadline)) {  // it left, or reads nothing
      call.Cancel();
      broken_ = true;
      co_return false;
    }
    if (stopped_) {
      call.Cancel();
      if (!has_begun) co_return co_await Refuse(ErrorResponse(ShuttingDown()));
      if (!done) answer.AppendError(ShuttingDown(), out_);
      WriteOutput();
      co_return false;
    }
    has_events = has_events || (reason & kEvents) != 0;
    if (has_events && !done && output_size() <= limits_->http.stream_bytes) {
      has_events = false;
      const CompletionBatch batch = call.Take();
      if (!has_begun) {
        if (batch.events.empty() && !batch.error.ok()) co_return co_await Send(ErrorResponse(batch.error));
        if (batch.events.empty() && !batch.done) continue;
        has_begun = true;
        status_ = 200;
        out_ += SerializeStreamHeader(Framing());
      }
      answer.AppendEvents(batch.events, out_);
      done = batch.done;
      if (done && batch.error.ok()) answer.AppendEnd(out_);
      if (done) call.NoteAnswered();
      if (!batch.error.ok()) {
        const HttpResponse error = ErrorResponse(batch.error);
        status_ = error.status;
        LogFailure(error.failure);
        answer.AppendError(batch.error, out_);
        keep_alive_ = false;
      }
    }
    if (!output_watched_) WriteOutput();
    if (output_size() > 0) {
      WatchOutput();
    } else if (done) {
      break;
    }
  }
  co_return keep_alive_;
}

Task<bool> Connection::Send(const HttpResponse& response) {
  ClearDeadline();
  status_ = response.status;
  LogFailure(response.failure);
  out_ += SerializeResponse(response, Framing(), !is_head_);
  return Flush();
}

Task<bool> Connection::Refuse(const HttpResponse& response) {
  keep_alive_ = false;
  return Send(response);
}

void Connection::LogFailure(std::string_view why) const {
  if (!why.empty()) optserve::LogFailure(server_.options.log, Logged(), why);
}

void Connection::LogCompletion(const CompletionAnswer& answer, Clock::time_point begin) const {
  optserve::LogCompletion(server_.options.log, Logged(),
                          {.id = answer.head().id,
                           .api_key_id = api_key_id_,
                           .status = broken_ ? kClientHasLeft : status_,
                           .seconds = std::chrono::duration<double>(Clock::now() - begin).count(),
                           .usage = answer.usage()});
}

LoggedRequest Connection::Logged() const {
  return {.protocol = "http",
          .request_id = request_id_,
          .trace_id = tracing_.context ? Hex(tracing_.context->trace_id) : ""};
}

template <typename Function>
Task<std::invoke_result_t<Function>> Connection::OnWorker(Function f) {
  // What f refers to is in frames below this one, which stay until the job is done, whoever leaves.
  std::optional<std::invoke_result_t<Function>> result;
  workers_.Run([this, self = shared_from_this(), &result, &f]() mutable {
    result.emplace(f());
    asio::post(loop_->context(), [self = std::move(self)] { self->wakeup_.Set(kWork); });
  });
  for (unsigned reason = 0; (reason & kWork) == 0;) reason = co_await wakeup_.Next();
  co_return *std::move(result);
}

void Connection::ChargeBody(size_t bytes) {
  server_.buffered_body_bytes += static_cast<int64_t>(bytes) - static_cast<int64_t>(body_charge_);
  body_charge_ = bytes;
}

ResponseFraming Connection::Framing() {
  if (request_id_.empty()) request_id_ = RequestIdFor("");
  return {.request_id = request_id_,
          .date = loop_->HttpDate(),
          .minor_version = minor_version_,
          .keep_alive = keep_alive_,
          .traceparent = traceparent_};
}

}  // namespace optserve
