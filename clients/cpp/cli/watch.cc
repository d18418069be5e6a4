#include "clients/cpp/cli/watch.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

namespace optserve::cli {
namespace {

using SteadyClock = std::chrono::steady_clock;

// 12.3 ms, 1.20 s; "-" for nothing.
std::string Duration(const std::optional<double>& seconds) {
  if (!seconds) return "-";
  return *seconds < 1 ? fmt::format("{:.1f} ms", *seconds * 1000) : fmt::format("{:.2f} s", *seconds);
}

std::string Bar(double share, int width) {
  const int full = static_cast<int>(std::lround(std::clamp(share, 0.0, 1.0) * width));
  std::string bar;
  for (int i = 0; i < width; ++i) bar += i < full ? "\u2588" : "\u2591";
  return bar;
}

// The last `width` values as a row of bars, the highest of which is the largest.
std::string Sparkline(const std::deque<double>& values, int width) {
  constexpr std::array<std::string_view, 8> kHeights = {"\u2581", "\u2582", "\u2583", "\u2584",
                                                        "\u2585", "\u2586", "\u2587", "\u2588"};
  const size_t count = std::min(values.size(), static_cast<size_t>(std::max(width, 0)));
  const auto first = values.end() - static_cast<std::ptrdiff_t>(count);
  const double largest = count == 0 ? 0 : *std::max_element(first, values.end());
  std::string line;
  for (auto value = first; value != values.end(); ++value) {
    const double share = largest > 0 ? *value / largest : 0;
    line += kHeights[std::min<size_t>(static_cast<size_t>(share * kHeights.size()), kHeights.size() - 1)];
  }
  return line;
}

absl::StatusOr<MetricsPage> Fetch(const client::Client& server, const ServerAccess& access) {
  const absl::StatusOr<std::string> text = server.Metrics(CallOf(access));
  if (!text.ok()) return text.status();
  return MetricsPage::Parse(*text);
}

// The alternate screen, given back at the end and on SIGINT and SIGTERM.
class Screen {
 public:
  Screen() {
    fmt::print("\x1b[?1049h\x1b[?25l");
    std::signal(SIGINT, Leave);
    std::signal(SIGTERM, Leave);
  }
  ~Screen() {
    fmt::print("\x1b[?25h\x1b[?1049l");
    std::fflush(stdout);
  }
  void Draw(const std::string& view) {
    fmt::print("\x1b[H\x1b[2J{}", view);
    std::fflush(stdout);
  }

 private:
  static void Leave(int signal) {
    constexpr std::string_view kRestore = "\x1b[?25h\x1b[?1049l";
    (void)!write(STDOUT_FILENO, kRestore.data(), kRestore.size());
    std::signal(signal, SIG_DFL);
    raise(signal);
  }
};

}  // namespace

Look LookAt(const MetricsPage& before, const MetricsPage& after, double seconds) {
  // Counters of a server that was started again begin at 0.
  const auto since = [&](std::string_view name) { return std::max(0.0, after.Value(name) - before.Value(name)); };
  const auto quantile = [&](std::string_view name, double q) { return QuantileBetween(before, after, name, q); };
  constexpr std::string_view kFirst = "optserve_time_to_first_token_seconds";
  constexpr std::string_view kBetween = "optserve_inter_token_latency_seconds";
  const double queries = since("optserve_prefix_cache_queries_total");
  return {.running = after.Value("optserve_requests_running"),
          .waiting = after.Value("optserve_requests_waiting"),
          .kv_usage = after.Value("optserve_kv_cache_usage_ratio"),
          .prompt_tokens_per_second = since("optserve_prompt_tokens_total") / seconds,
          .generation_tokens_per_second = since("optserve_generation_tokens_total") / seconds,
          .cache_hit_ratio = queries > 0 ? since("optserve_prefix_cache_hits_total") / queries : 0,
          .preemptions = since("optserve_preemptions_total"),
          .engine_restarts = after.Value("optserve_engine_restarts_total"),
          .is_healthy = after.Value("optserve_engine_healthy") == 1,
          .first_token_p50 = quantile(kFirst, 0.5),
          .first_token_p99 = quantile(kFirst, 0.99),
          .between_tokens_p50 = quantile(kBetween, 0.5),
          .between_tokens_p99 = quantile(kBetween, 0.99)};
}

std::string LookLine(const Look& look) {
  return fmt::format(
      "running {:.0f}  waiting {:.0f}  kv {:.1f} %  prompt {:.0f} tok/s  generated {:.0f} tok/s  first token p50 {}  "
      "between tokens p50 {}{}",
      look.running, look.waiting, look.kv_usage * 100, look.prompt_tokens_per_second, look.generation_tokens_per_second,
      Duration(look.first_token_p50), Duration(look.between_tokens_p50), look.is_healthy ? "" : "  engine not healthy");
}

std::string LookJson(const Look& look) {
  const auto or_null = [](const std::optional<double>& value) {
    return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
  };
  const nlohmann::ordered_json json = {{"running", look.running},
                                       {"waiting", look.waiting},
                                       {"kv_usage", look.kv_usage},
                                       {"prompt_tokens_per_second", look.prompt_tokens_per_second},
                                       {"generation_tokens_per_second", look.generation_tokens_per_second},
                                       {"cache_hit_ratio", look.cache_hit_ratio},
                                       {"preemptions", look.preemptions},
                                       {"engine_restarts", look.engine_restarts},
                                       {"healthy", look.is_healthy},
                                       {"time_to_first_token_p50", or_null(look.first_token_p50)},
                                       {"time_to_first_token_p99", or_null(look.first_token_p99)},
                                       {"inter_token_latency_p50", or_null(look.between_tokens_p50)},
                                       {"inter_token_latency_p99", or_null(look.between_tokens_p99)}};
  return json.dump();
}

std::string LookView(const Look& look, const std::string& title, const std::deque<double>& history,
                     const Terminal& terminal, int columns) {
  const int width = std::clamp(columns - 24, 10, 60);
  const auto bold = [&](const std::string& text) { return terminal.has_color ? "\x1b[1m" + text + "\x1b[0m" : text; };
  // Room left is good, hence the colour of its probability.
  const std::string kv = Painted(Bar(look.kv_usage, width), 1 - look.kv_usage, terminal);
  const std::string health = look.is_healthy ? Painted("healthy", 1, terminal) : Painted("not healthy", 0, terminal);
  std::string view = bold(title) + "\n\n";
  view += fmt::format("engine        {}, {:.0f} restarts\n", health, look.engine_restarts);
  view += fmt::format("sequences     {:.0f} running, {:.0f} waiting, {:.0f} preempted\n", look.running, look.waiting,
                      look.preemptions);
  view += fmt::format("KV cache      {} {:.1f} %\n", kv, look.kv_usage * 100);
  view += fmt::format("prefix cache  {:.1f} % of prompt tokens\n\n", look.cache_hit_ratio * 100);
  view += fmt::format("generated     {:.0f} tokens/s\n", look.generation_tokens_per_second);
  view += fmt::format("              {}\n", Sparkline(history, width));
  view += fmt::format("prompts       {:.0f} tokens/s\n\n", look.prompt_tokens_per_second);
  view += fmt::format("first token   p50 {}, p99 {}\n", Duration(look.first_token_p50), Duration(look.first_token_p99));
  view += fmt::format("between two   p50 {}, p99 {}\n", Duration(look.between_tokens_p50),
                      Duration(look.between_tokens_p99));
  return view;
}

int Watch(const ServerAccess& access, const WatchOptions& options) {
  constexpr size_t kHistory = 120;
  const absl::StatusOr<std::unique_ptr<client::Client>> server = Connect(access);
  if (!server.ok()) return Fail(server.status(), access);
  absl::StatusOr<MetricsPage> before = Fetch(**server, access);
  if (!before.ok()) return Fail(before.status(), access);
  const Terminal terminal = TerminalOf(stdout, options.color);
  std::optional<Screen> screen;
  if (terminal.is_terminal && !options.json) screen.emplace();
  std::deque<double> history;
  SteadyClock::time_point last = SteadyClock::now();
  for (int looks = 0; options.count == 0 || looks < options.count; ++looks) {
    std::this_thread::sleep_until(last + std::chrono::duration_cast<SteadyClock::duration>(
                                             std::chrono::duration<double>(options.interval_seconds)));
    const SteadyClock::time_point now = SteadyClock::now();
    absl::StatusOr<MetricsPage> after = Fetch(**server, access);
    if (!after.ok()) {
      const std::string line = fmt::format("{}: {}\n", access.address, std::string(after.status().message()));
      if (screen) screen->Draw(line);
      if (!screen) fmt::print(stderr, "{}", line);
      last = now;
      continue;
    }
    const Look look = LookAt(*before, *after, std::chrono::duration<double>(now - last).count());
    history.push_back(look.generation_tokens_per_second);
    if (history.size() > kHistory) history.pop_front();
    const std::string title = fmt::format("optserve at {}   (Ctrl-C ends)", access.address);
    if (screen) {
      screen->Draw(LookView(look, title, history, terminal, TerminalColumns(stdout)));
    } else {
      fmt::print("{}\n", options.json ? LookJson(look) : LookLine(look));
      std::fflush(stdout);
    }
    before = std::move(after);
    last = now;
  }
  return kExitOk;
}

}  // namespace optserve::cli
