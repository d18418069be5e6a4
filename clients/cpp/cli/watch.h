#pragma once

#include <chrono>
#include <deque>
#include <string>

#include "clients/cpp/cli/metrics_page.h"
#include "clients/cpp/cli/server_access.h"
#include "clients/cpp/cli/terminal.h"

namespace optserve::cli {

struct WatchOptions {
  double interval_seconds = 1;
  int count = 0;  // looks, then the end; 0: until it is interrupted
  bool json = false;
  ColorWish color = ColorWish::kAuto;
};

// Shows what a server is doing, from its /metrics: on a terminal a view that is drawn again, elsewhere a line for each
// interval, with `json` a JSON one. A server that goes away is said so, and waited for.
int Watch(const ServerAccess& access, const WatchOptions& options);

// What happened between two looks.
struct Look {
  double running = 0, waiting = 0;  // sequences
  double kv_usage = 0;              // 0 to 1
  double prompt_tokens_per_second = 0, generation_tokens_per_second = 0;
  double cache_hit_ratio = 0;  // of prompt tokens since the last look; 0 if there were none
  double preemptions = 0;      // since the last look
  double engine_restarts = 0;  // of all
  bool is_healthy = false;
  std::optional<double> first_token_p50, first_token_p99, between_tokens_p50, between_tokens_p99;  // seconds
};

Look LookAt(const MetricsPage& before, const MetricsPage& after, double seconds);

// One line; and the view, of at most `columns`, with what tokens/s were before.
std::string LookLine(const Look& look);
std::string LookJson(const Look& look);
std::string LookView(const Look& look, const std::string& title, const std::deque<double>& history,
                     const Terminal& terminal, int columns);

}  // namespace optserve::cli
