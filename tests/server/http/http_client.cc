#include "tests/server/http/http_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

namespace optserve {
namespace {

constexpr int kTimeoutMs = 8000;

void SetLimits(int fd) {
  const timeval limit{.tv_sec = kTimeoutMs / 1000, .tv_usec = 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

}  // namespace

HttpClient::HttpClient(int port, int receive_buffer_bytes) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  SetLimits(fd_);
  if (receive_buffer_bytes > 0) {
    setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof(receive_buffer_bytes));
  }
  sockaddr_in address{
      .sin_family = AF_INET, .sin_port = htons(static_cast<uint16_t>(port)), .sin_addr = {}, .sin_zero = {}};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    throw std::runtime_error(std::string("connect: ") + std::strerror(errno));
  }
}

HttpClient::~HttpClient() {
  if (fd_ >= 0) close(fd_);
}

bool HttpClient::Send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(count));
  }
  return true;
}

bool HttpClient::Post(std::string_view path, std::string_view body, std::string_view fields) {
  std::string bytes = "POST " + std::string(path) + " HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n" +
                      "Content-Length: " + std::to_string(body.size()) + "\r\n" + std::string(fields) + "\r\n";
  bytes += body;
  return Send(bytes);
}

bool HttpClient::ReceiveSome() {
  char buffer[65536];
  const ssize_t count = recv(fd_, buffer, sizeof(buffer), 0);
  if (count <= 0) return false;
  received_.append(buffer, static_cast<size_t>(count));
  return true;
}

bool HttpClient::ReceiveUntil(std::string_view text) {
  while (received_.find(text) == std::string::npos) {
    if (!ReceiveSome()) return false;
  }
  return true;
}

bool HttpClient::ReceiveToEnd(std::chrono::milliseconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd poll_fd{.fd = fd_, .events = POLLIN, .revents = 0};
    if (left.count() <= 0 || poll(&poll_fd, 1, static_cast<int>(left.count())) <= 0) return false;
    if (!ReceiveSome()) return true;
  }
}

WireResponse HttpClient::Receive(bool to_head_request) {
  WireResponse response;
  if (!ReceiveUntil("\r\n\r\n")) return response;
  const size_t header_end = received_.find("\r\n\r\n");
  const std::string header = received_.substr(0, header_end + 2);
  received_.erase(0, header_end + 4);
  response.status = std::atoi(header.substr(9, 3).c_str());
  for (size_t begin = header.find("\r\n") + 2; begin < header.size();) {
    const size_t end = header.find("\r\n", begin);
    const size_t colon = header.find(": ", begin);
    std::string name = header.substr(begin, colon - begin);
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
    response.fields[name] = header.substr(colon + 2, end - colon - 2);
    begin = end + 2;
  }
  if (response.status < 200 || response.status == 304 || to_head_request) {
    response.whole = true;
  } else if (response.fields.contains("content-length")) {
    const size_t length = std::strtoul(response.fields["content-length"].c_str(), nullptr, 10);
    while (received_.size() < length && ReceiveSome()) {
    }
    response.whole = received_.size() >= length;
    response.body = received_.substr(0, length);
    received_.erase(0, length);
  } else if (response.fields.contains("transfer-encoding")) {
    for (;;) {
      if (!ReceiveUntil("\r\n")) return response;
      const size_t line_end = received_.find("\r\n");
      const size_t size = std::strtoul(received_.c_str(), nullptr, 16);
      while (received_.size() < line_end + 2 + size + 2) {
        if (!ReceiveSome()) return response;
      }
      response.body += received_.substr(line_end + 2, size);
      received_.erase(0, line_end + 2 + size + 2);
      if (size == 0) break;
    }
    response.whole = true;
  } else {
    response.whole = ReceiveToEnd();
    response.body = std::move(received_);
    received_.clear();
  }
  return response;
}

void HttpClient::ShutdownSend() { shutdown(fd_, SHUT_WR); }

void HttpClient::Reset() {
  const linger now{.l_onoff = 1, .l_linger = 0};
  setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
  close(fd_);
  fd_ = -1;
}

WireResponse HttpGet(int port, std::string_view path) {
  HttpClient client(port);
  client.Get(path);
  return client.Receive();
}

WireResponse HttpPost(int port, std::string_view path, std::string_view body, std::string_view fields) {
  HttpClient client(port);
  client.Post(path, body, fields);
  return client.Receive();
}

}  // namespace optserve
