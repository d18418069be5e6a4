#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "engine/engine_client.h"

// What Prometheus reads from a server: every metric's name and help are one list in metrics.cc.

namespace optserve {

// Histograms and counters of one server, and how they and an engine's own counters are printed. Any thread may call;
// observing takes one short lock.
class Metrics {
 public:
  explicit Metrics(std::string_view version);
  ~Metrics();

  // Per answer, as its client sees them; seconds.
  void ObserveTimeToFirstToken(double seconds);
  void ObserveInterTokenLatency(double seconds);

  // Per request: from its arrival to its last event and how it ended, as the client saw it (not kNone); and from its
  // arrival to the first step that computes it.
  void ObserveRequest(double seconds, FinishReason finish);
  void ObserveRequestQueue(double seconds);

  // Per request: from when it had come whole until its answer was made, to the last byte; who sends it goes on.
  void ObserveServing(double seconds);

  // Per step of the engine.
  void ObserveStep(double seconds, int32_t tokens);

  void CountEngineRestart();

  // From now on the server drains.
  void SetDraining();

  // Of the usage ledger: attempts to write that failed, and records that were given up.
  void CountUsageLogFailure();
  void CountUsageRecordLost();

  // Of traces: spans that the collector has taken, and spans that it did not get.
  void CountTraceSpansExported(size_t num_spans);
  void CountTraceSpansDropped(size_t num_spans);

  // Prometheus text, version 0.0.4. `stats` may come from a younger engine than the last time: Prometheus takes a
  // counter that falls for a restart.
  std::string Render(const EngineStats& stats, bool engine_healthy) const;

  // The same numbers again under the names that vLLM has for them, for dashboards that were made for it; what it alone
  // counts is not there. Every metric has the labels model_name and engine="0", as there.
  std::string RenderAsVllm(const EngineStats& stats, std::string_view model_name) const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace optserve
