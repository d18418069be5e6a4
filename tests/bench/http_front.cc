// What a streamed token costs the front end: JSON, SSE, sockets, and the text of the token, over loopback with an
// engine that computes nothing. Clients read in a process of their own, so that their time is not counted. In the same
// run it measures what the kernel alone takes to send as many bytes, so that figures of different machines can be
// compared.
//
//   build/release/http_front [streams] [tokens per stream]

#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "server/http/http_server.h"
#include "tests/server/http/http_client.h"
#include "tests/support/fake_engine_client.h"
#include "tests/support/test_data.h"

namespace optserve {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kAimSeconds = 15e-6;       // of CPU per streamed token at 256 streams
constexpr double kAimProbeSeconds = 50e-3;  // of /readyz, its 99.9th percentile

// CPU seconds of this process's threads, by their names.
std::map<std::string, double> ThreadSeconds() {
  std::map<std::string, double> seconds;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name;
    std::getline(std::ifstream(entry.path() / "comm"), name);
    double nanoseconds = 0;
    std::ifstream(entry.path() / "schedstat") >> nanoseconds;
    seconds[name] += nanoseconds * 1e-9;
  }
  return seconds;
}

// Opens the streams and reads them all to their ends.
void RunClients(int port, int streams, int tokens) {
  const int epoll_fd = epoll_create1(0);
  std::vector<std::unique_ptr<HttpClient>> clients;
  for (int i = 0; i < streams; ++i) {
    clients.push_back(std::make_unique<HttpClient>(port));
    clients.back()->Post(
        "/v1/completions",
        fmt::format(R"({{"prompt":[5,{}],"max_tokens":{},"stream":true,"ignore_eos":true}})", 4 + i, tokens),
        "Connection: close\r\n");
    epoll_event event{.events = EPOLLIN, .data = {.u32 = static_cast<uint32_t>(i)}};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, clients.back()->fd(), &event);
  }
  std::vector<epoll_event> events(256);
  std::vector<char> buffer(1 << 20);
  for (int open = streams; open > 0;) {
    const int count = epoll_wait(epoll_fd, events.data(), static_cast<int>(events.size()), -1);
    for (int i = 0; i < count; ++i) {
      const int fd = clients[events[i].data.u32]->fd();
      if (read(fd, buffer.data(), buffer.size()) > 0) continue;
      epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, nullptr);
      --open;
    }
  }
  close(epoll_fd);
}

struct Measured {
  double seconds = 0;
  std::map<std::string, double> cpu;  // by thread
  std::vector<double> probe_seconds;  // of /readyz
  std::vector<double> late_seconds;   // how much longer than it wanted a thread slept: what the machine alone does
};

Measured Measure(std::chrono::microseconds step_time, int rounds, int streams, int tokens) {
  FakeEngineClient engine({.pace = FakeEngineClient::Pace::kOwnThread, .step_time = step_time});
  CompletionService service(engine, Tokenizer::Load(DemoModelPath()).value(), {.served_model_name = "demo-model"});
  HttpServer::Options options;
  options.port = 0;
  const std::unique_ptr<HttpServer> server = HttpServer::Start(options).value();
  server->Serve(service);

  HttpClient probe(server->port());
  const std::map<std::string, double> before = ThreadSeconds();
  const auto began = Clock::now();
  const pid_t clients = fork();
  if (clients == 0) {
    for (int round = 0; round < rounds; ++round) RunClients(server->port(), streams, tokens);
    _exit(0);
  }
  Measured measured;
  while (waitpid(clients, nullptr, WNOHANG) == 0) {
    const auto sent = Clock::now();
    probe.Get("/readyz");
    probe.Receive();
    const auto answered = Clock::now();
    measured.probe_seconds.push_back(std::chrono::duration<double>(answered - sent).count());
    constexpr auto kPause = std::chrono::milliseconds(2);
    std::this_thread::sleep_for(kPause);
    measured.late_seconds.push_back(std::chrono::duration<double>(Clock::now() - answered - kPause).count());
  }
  measured.seconds = std::chrono::duration<double>(Clock::now() - began).count();
  measured.cpu = ThreadSeconds();
  for (const auto& [name, seconds] : before) measured.cpu[name] -= seconds;
  return measured;
}

// CPU seconds of one send() of an event's size over loopback, to a process that reads.
double BareSendSeconds() {
  constexpr int kSends = 20'000;
  const std::string event(280, 'x');
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{.sin_family = AF_INET, .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
  socklen_t size = sizeof(address);
  bind(listener, reinterpret_cast<sockaddr*>(&address), size);
  listen(listener, 1);
  getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
  const pid_t reader = fork();
  if (reader == 0) {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    connect(fd, reinterpret_cast<sockaddr*>(&address), size);
    std::vector<char> buffer(1 << 16);
    while (read(fd, buffer.data(), buffer.size()) > 0) {
    }
    _exit(0);
  }
  const int fd = accept(listener, nullptr, nullptr);
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  timespec before{};
  timespec after{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
  for (int i = 0; i < kSends; ++i) {
    if (send(fd, event.data(), event.size(), 0) < 0) std::abort();
  }
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
  close(fd);
  close(listener);
  waitpid(reader, nullptr, 0);
  return (static_cast<double>(after.tv_sec - before.tv_sec) +
          static_cast<double>(after.tv_nsec - before.tv_nsec) * 1e-9) /
         kSends;
}

double Percentile(std::vector<double>& values, double fraction) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(fraction * static_cast<double>(values.size() - 1))];
}

void Report(std::string_view name, std::chrono::microseconds step_time, int rounds, int streams, int tokens) {
  Measured measured = Measure(step_time, rounds, streams, tokens);
  const double total = static_cast<double>(rounds) * streams * tokens;
  double all = 0;
  for (const auto& [thread, seconds] : measured.cpu) all += seconds;
  fmt::print("{}: {} x {} streams x {} tokens in {:.2f} s = {:.0f} tokens/s\n", name, rounds, streams, tokens,
             measured.seconds, total / measured.seconds);
  const double io = measured.cpu["http-io"] / total;
  const double bare = BareSendSeconds();
  fmt::print(
      "  CPU per token: I/O threads {:.2f} us, whole process with its engine {:.2f} us; {:.2f} of the aim of {} us\n",
      io * 1e6, all / total * 1e6, io / kAimSeconds, kAimSeconds * 1e6);
  fmt::print("  one bare send() of as many bytes takes {:.2f} us: the I/O threads take {:.2f} times that\n", bare * 1e6,
             io / bare);
  const double tail = Percentile(measured.probe_seconds, 0.999);
  fmt::print("  /readyz meanwhile: p50 {:.2f} ms, p99 {:.2f} ms, p99.9 {:.2f} ms of {}; {:.2f} of the aim of {} ms\n",
             Percentile(measured.probe_seconds, 0.5) * 1e3, Percentile(measured.probe_seconds, 0.99) * 1e3, tail * 1e3,
             measured.probe_seconds.size(), tail / kAimProbeSeconds, kAimProbeSeconds * 1e3);
  const double late = Percentile(measured.late_seconds, 0.999);
  fmt::print("  a thread that only sleeps was late by {:.2f} ms at p99.9: /readyz takes {:.2f} times that\n",
             late * 1e3, tail / late);
}

}  // namespace
}  // namespace optserve

int main(int argc, char** argv) {
  const int streams = argc > 1 ? std::atoi(argv[1]) : 256;
  const int tokens = argc > 2 ? std::atoi(argv[2]) : 400;
  optserve::Report("a step every 20 ms", std::chrono::milliseconds(20), 1, streams, tokens);
  optserve::Report("as fast as it goes", std::chrono::microseconds(0), 50, streams, tokens);
}
