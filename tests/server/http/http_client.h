#pragma once

#include <chrono>
#include <map>
#include <string>
#include <string_view>

namespace optserve {

// An answer as it came over the wire.
struct WireResponse {
  int status = 0;                             // 0: the server closed without one
  std::map<std::string, std::string> fields;  // names in lower case
  std::string body;                           // chunks put together
  bool whole = false;                         // the end came as the header said
};

// A client that sends the very bytes it is given, over loopback. Blocking, with a limit of some seconds on every call
// so that a test that is wrong ends.
class HttpClient {
 public:
  explicit HttpClient(int port, int receive_buffer_bytes = 0);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  // False when the server has closed.
  bool Send(std::string_view bytes);
  bool Get(std::string_view path) { return Send("GET " + std::string(path) + " HTTP/1.1\r\nHost: test\r\n\r\n"); }
  bool Post(std::string_view path, std::string_view body, std::string_view fields = "");

  // The next answer; what comes behind it stays for the next call.
  WireResponse Receive(bool to_head_request = false);

  // Reads until `text` has come (true) or the server has closed; what was read so far is received().
  bool ReceiveUntil(std::string_view text);
  std::string& received() { return received_; }

  // Reads everything up to the end of the connection: true when it came within the time, false when it is still open.
  bool ReceiveToEnd(std::chrono::milliseconds limit = std::chrono::seconds(5));

  int fd() const { return fd_; }
  void ShutdownSend();
  void Reset();  // closes with RST

 private:
  bool ReceiveSome();

  int fd_ = -1;
  std::string received_;
};

// One request on a connection of its own.
WireResponse HttpGet(int port, std::string_view path);
WireResponse HttpPost(int port, std::string_view path, std::string_view body, std::string_view fields = "");

}  // namespace optserve
