#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace optserve::client {

// A connection that a ScriptedServer took, seen from the server.
class ServerSide {
 public:
  explicit ServerSide(int fd) : fd_(fd) {}

  // A whole request, head and body by its Content-Length; empty if the client closed instead.
  std::string ReadRequest() {
    std::string request;
    size_t wanted = 0;
    for (char bytes[4096];;) {
      const size_t end = request.find("\r\n\r\n");
      if (end != std::string::npos) {
        const size_t length = request.find("Content-Length: ");
        wanted = end + 4 + (length < end ? std::stoul(request.substr(length + 16)) : 0);
        if (request.size() >= wanted) return request;
      }
      const ssize_t count = recv(fd_, bytes, sizeof(bytes), 0);
      if (count <= 0) return "";
      request.append(bytes, static_cast<size_t>(count));
    }
  }

  // False if the client has gone.
  bool Send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t count = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (count <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(count));
    }
    return true;
  }

  // Waits until the client closes.
  void WaitForEnd() {
    char byte = 0;
    while (recv(fd_, &byte, 1, 0) > 0) {
    }
  }

  // The client sees the end of the stream; the connection stays.
  void EndSending() const { shutdown(fd_, SHUT_WR); }

  // The next close is a reset.
  void BreakOff() const {
    const linger off = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd_, SOL_SOCKET, SO_LINGER, &off, sizeof(off));
  }

 private:
  int fd_;
};

// Listens on the loopback; the k-th connection is given to the k-th script, those after the last to the last one, and
// closed when that returns. Scripts run one after the other, or `at_once`, each on its own thread.
class ScriptedServer {
 public:
  using Script = std::function<void(ServerSide&)>;

  explicit ScriptedServer(std::vector<Script> scripts, bool at_once = false)
      : scripts_(std::move(scripts)), at_once_(at_once) {
    listener_ = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(listener_, 16), 0);
    EXPECT_EQ(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { Run(); });
  }

  ~ScriptedServer() {
    shutdown(listener_, SHUT_RDWR);
    {
      const std::lock_guard lock(mutex_);
      for (const int fd : open_) shutdown(fd, SHUT_RDWR);
    }
    thread_.join();
    for (std::thread& thread : script_threads_) thread.join();
    close(listener_);
  }

  std::string address() const { return "http://127.0.0.1:" + std::to_string(port_); }
  int connections() const { return connections_; }

 private:
  void Run() {
    while (true) {
      const int fd = accept(listener_, nullptr, nullptr);
      if (fd < 0) return;
      const size_t number = static_cast<size_t>(connections_++);
      if (at_once_) {
        script_threads_.emplace_back([this, fd, number] { Serve(fd, number); });
      } else {
        Serve(fd, number);
      }
    }
  }

  void Serve(int fd, size_t number) {
    {
      const std::lock_guard lock(mutex_);
      open_.insert(fd);
    }
    ServerSide side(fd);
    scripts_[std::min(number, scripts_.size() - 1)](side);
    const std::lock_guard lock(mutex_);
    open_.erase(fd);
    close(fd);
  }

  const std::vector<Script> scripts_;
  const bool at_once_;
  int listener_ = -1;
  int port_ = 0;
  std::atomic<int> connections_{0};
  std::mutex mutex_;
  std::set<int> open_;
  std::thread thread_;
  std::vector<std::thread> script_threads_;  // thread_'s, until it has ended
};

// An answer of HTTP/1.1 with a length.
inline std::string Answer(std::string_view status, std::string_view body, std::string_view headers = "") {
  return "HTTP/1.1 " + std::string(status) + "\r\nContent-Type: application/json\r\n" + std::string(headers) +
         "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + std::string(body);
}

// The head of a stream whose end is the connection's, and an event of it with a text.
inline constexpr std::string_view kStreamHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
inline std::string Event(std::string_view text) {
  return "data: {\"choices\":[{\"index\":0,\"text\":\"" + std::string(text) +
         "\",\"logprobs\":null,\"finish_reason\":null}]}\n\n";
}

}  // namespace optserve::client
