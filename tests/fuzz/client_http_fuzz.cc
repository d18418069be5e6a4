// Bytes that a server on the loopback answers a request of the client library with; the first byte says where they are
// cut. Whatever they are, the connection ends with an answer or an error, the same however they come; a body is no
// longer than what was sent. Then the whole library reads them, as a stream and as a whole answer.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <tuple>

#include "clients/cpp/http_connection.h"
#include "clients/cpp/transport.h"
#include "tests/fuzz/fuzz.h"

using namespace optserve;
using namespace optserve::client;

namespace {

constexpr std::chrono::seconds kDeadline(4);  // nothing may come to it: the server always closes

// Answers every connection with `bytes`, in pieces of `piece`, once it has seen a whole request, and closes.
class HostileServer {
 public:
  HostileServer() {
    listener_ = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    FUZZ_CHECK(bind(listener_, reinterpret_cast<sockaddr*>(&address), size) == 0);
    FUZZ_CHECK(listen(listener_, 64) == 0);
    FUZZ_CHECK(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) == 0);
    port_ = ntohs(address.sin_port);
    std::thread([this] {
      while (true) Serve(accept(listener_, nullptr, nullptr));
    }).detach();
  }

  // To connections from now on; one that a client has left may still be at what it was told before.
  void Answer(std::string_view bytes, size_t piece) {
    const std::lock_guard lock(mu_);
    bytes_ = bytes;
    piece_ = piece;
  }

  std::string port() const { return std::to_string(port_); }

 private:
  void Serve(int fd) {
    if (fd < 0) return;
    mu_.lock();
    const std::string bytes = bytes_;
    const size_t piece = piece_;
    mu_.unlock();
    std::string request;
    for (char buffer[4096]; !IsWhole(request);) {
      const ssize_t count = recv(fd, buffer, sizeof(buffer), 0);
      if (count <= 0) break;
      request.append(buffer, static_cast<size_t>(count));
    }
    for (std::string_view left = bytes; !left.empty();) {
      const ssize_t count = send(fd, left.data(), std::min(piece, left.size()), MSG_NOSIGNAL);
      if (count <= 0) break;
      left.remove_prefix(static_cast<size_t>(count));
    }
    shutdown(fd, SHUT_WR);
    for (char rest[4096]; recv(fd, rest, sizeof(rest), 0) > 0;) {  // until the client closes, so that nothing is reset
    }
    close(fd);
  }

  static bool IsWhole(const std::string& request) {
    const size_t end = request.find("\r\n\r\n");
    if (end == std::string::npos) return false;
    const size_t length = request.find("Content-Length: ");
    return length > end || request.size() >= end + 4 + std::stoul(request.substr(length + 16));
  }

  int listener_ = -1;
  int port_ = 0;
  std::mutex mu_;
  std::string bytes_;
  size_t piece_ = 1;
};

Attempt NewAttempt() { return {.deadline = Clock::now() + kDeadline}; }

// By the clock: a server that answers 408 or 504 says itself that a deadline was exceeded.
void CheckError(const absl::Status& status, const Attempt& attempt) {
  FUZZ_CHECK(!fuzz::Message(status).empty());
  FUZZ_CHECK(Clock::now() < attempt.deadline);
}

// Status, body, whether it is an event stream, whether the connection can be used again. None: an error, of which how
// the bytes come may decide what it is called, "not HTTP" or "it broke off".
using Result = std::optional<std::tuple<int, std::string, bool, bool>>;

Result Ask(const Address& address) {
  const Attempt attempt = NewAttempt();
  auto connection = HttpConnection::Open({.address = address, .connect_timeout = kDeadline}, attempt);
  FUZZ_CHECK(connection.ok());
  const HttpRequest request = {.method = "GET", .target = "/metrics", .host = "localhost"};
  const absl::StatusOr<HttpHead> head = (*connection)->Send(request, attempt);
  if (!head.ok()) CheckError(head.status(), attempt);
  if (!head.ok()) return std::nullopt;
  std::string body;
  absl::StatusOr<bool> more = true;
  while (more.ok() && *more) more = (*connection)->ReadBody(body, attempt);
  if (!more.ok()) CheckError(more.status(), attempt);
  if (!more.ok()) return std::nullopt;
  return std::tuple(head->status, body, head->is_event_stream, (*connection)->IsReusable());
}

v1::CompletionRequest Request() {
  v1::CompletionRequest request;
  request.add_prompt()->set_text("Call me");
  return request;
}

void AskTheLibrary(const Address& address) {
  const absl::StatusOr<std::unique_ptr<Transport>> transport = MakeHttpTransport({}, address);
  FUZZ_CHECK(transport.ok());
  const Attempt first = NewAttempt();
  const absl::StatusOr<v1::CompletionResponse> whole = (*transport)->Complete(Request(), first);
  if (!whole.ok()) CheckError(whole.status(), first);
  const Attempt second = NewAttempt();
  const absl::StatusOr<std::unique_ptr<EventSource>> events = (*transport)->Stream(Request(), second);
  if (!events.ok()) return CheckError(events.status(), second);
  v1::CompletionEvent event;
  absl::StatusOr<bool> more = true;
  while (more.ok() && *more) more = (*events)->Next(event);
  if (!more.ok()) CheckError(more.status(), second);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static HostileServer* const server = new HostileServer;  // its thread never ends
  if (size == 0) return 0;
  const std::string_view bytes = fuzz::Text(data, size).substr(1);
  const Address address = {.host = "127.0.0.1", .port = server->port()};
  server->Answer(bytes, bytes.size() + 1);
  const Result whole = Ask(address);
  FUZZ_CHECK(!whole || std::get<1>(*whole).size() <= bytes.size());
  server->Answer(bytes, 1 + data[0]);
  const Result cut = Ask(address);
  FUZZ_CHECK(cut == whole);
  AskTheLibrary(address);
  return 0;
}
