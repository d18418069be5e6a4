#include "server/commands/run_summary.h"

#include <cmath>
#include <cstdint>

namespace optserve {
namespace {

double Ratio(double part, double whole) { return whole > 0 ? std::round(1000 * part / whole) / 1000 : 0.0; }

// A counter that fell is a younger engine's.
double Grown(uint64_t now, uint64_t before) { return now >= before ? static_cast<double>(now - before) : 0.0; }

}  // namespace

void RunSummary::Update(const EngineStats& stats, Clock::time_point now) {
  if (now < next_) return;
  const double seconds = std::chrono::duration<double>(now - last_).count();
  const bool had_work = stats.steps != last_stats_.steps || stats.running > 0 || stats.waiting > 0;
  if (had_work && seconds > 0) {
    const auto per_second = [&](uint64_t after, uint64_t before) {
      return std::round(10 * Grown(after, before) / seconds) / 10;
    };
    const double steps = Grown(stats.steps, last_stats_.steps);
    const double queries = Grown(stats.prefix_cache_queries, last_stats_.prefix_cache_queries);
    log_.Info(
        "summary",
        {{"running", stats.running},
         {"waiting", stats.waiting},
         {"kv_cache_usage", Ratio(static_cast<double>(stats.blocks_used), static_cast<double>(stats.blocks_total))},
         {"prompt_tokens_per_second", per_second(stats.prompt_tokens, last_stats_.prompt_tokens)},
         {"generated_tokens_per_second", per_second(stats.generated_tokens, last_stats_.generated_tokens)},
         {"prefix_cache_hit_ratio", Ratio(Grown(stats.prefix_cache_hits, last_stats_.prefix_cache_hits), queries)},
         {"steps_per_second", std::round(10 * steps / seconds) / 10},
         {"preemptions", Grown(stats.preemptions, last_stats_.preemptions)}});
  }
  last_stats_ = stats;
  last_ = now;
  next_ = now + kPeriod;
}

}  // namespace optserve
