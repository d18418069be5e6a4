// What a streamed token costs the front end: JSON, SSE, sockets, and the text of the token, over loopback with an
// engine that computes nothing. Clients read in a process of their own, so that their time is not counted.
//
//   build/release/http_front [streams] [tokens per stream]

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "server/http/http_server.h"
#include "tests/server/http/http_client.h"
#include "tests/support/fake_engine_client.h"
#include "tests/support/test_data.h"

namespace optserve {
namespace {

using Clock = std::chrono::steady_clock;

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
    measured.probe_seconds.push_back(std::chrono::duration<double>(Clock::now() - sent).count());
    usleep(2000);
  }
  measured.seconds = std::chrono::duration<double>(Clock::now() - began).count();
  measured.cpu = ThreadSeconds();
  for (const auto& [name, seconds] : before) measured.cpu[name] -= seconds;
  return measured;
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
  fmt::print("  CPU per token: I/O threads {:.2f} us, whole process with its engine {:.2f} us (aim: 15)\n",
             measured.cpu["http-io"] / total * 1e6, all / total * 1e6);
  fmt::print("  /readyz meanwhile: p50 {:.2f} ms, p99 {:.2f} ms, p99.9 {:.2f} ms of {} (aim: p99.9 below 50)\n",
             Percentile(measured.probe_seconds, 0.5) * 1e3, Percentile(measured.probe_seconds, 0.99) * 1e3,
             Percentile(measured.probe_seconds, 0.999) * 1e3, measured.probe_seconds.size());
}

}  // namespace
}  // namespace optserve

int main(int argc, char** argv) {
  const int streams = argc > 1 ? std::atoi(argv[1]) : 256;
  const int tokens = argc > 2 ? std::atoi(argv[2]) : 400;
  optserve::Report("a step every 20 ms", std::chrono::milliseconds(20), 1, streams, tokens);
  optserve::Report("as fast as it goes", std::chrono::microseconds(0), 50, streams, tokens);
}
