#include "server/text/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace optserve {
namespace {

std::vector<size_t> Borders(std::string_view stop) {
  std::vector<size_t> border(stop.size() + 1, 0);
  size_t length = 0;
  for (size_t i = 1; i < stop.size(); ++i) {
    while (length > 0 && stop[i] != stop[length]) length = border[length];
    if (stop[i] == stop[length]) ++length;
    border[i + 1] = length;
  }
  return border;
}

}  // namespace

StopMatcher::StopMatcher(std::vector<std::string> stops) {
  automata_.reserve(stops.size());
  for (std::string& stop : stops) {
    std::vector<size_t> border = Borders(stop);
    automata_.push_back({.stop = std::move(stop), .border = std::move(border)});
  }
}

StopMatcher::Output StopMatcher::Push(std::string_view piece) {
  if (finished_) return {};
  size_t end = text_size();
  pending_ += piece;
  for (const char byte : piece) {
    ++end;
    const std::optional<size_t> stop = Advance(byte);
    if (!stop.has_value()) continue;
    finished_ = true;
    const Match match{.stop_index = *stop, .begin = end - automata_[*stop].stop.size(), .end = end};
    return {.text = Release(match.begin), .match = match};
  }
  size_t num_held = 0;
  for (const Automaton& automaton : automata_) num_held = std::max(num_held, automaton.matched);
  return {.text = Release(end - num_held), .match = std::nullopt};
}

std::string StopMatcher::Flush() {
  if (finished_) return {};
  finished_ = true;
  return Release(text_size());
}

std::optional<size_t> StopMatcher::Advance(char byte) {
  std::optional<size_t> complete;
  for (size_t i = 0; i < automata_.size(); ++i) {
    auto& [stop, border, matched] = automata_[i];
    if (stop.empty()) continue;
    while (matched > 0 && stop[matched] != byte) matched = border[matched];
    if (stop[matched] == byte) ++matched;
    const bool is_complete = matched == stop.size();
    if (is_complete && (!complete || stop.size() > automata_[*complete].stop.size())) complete = i;
  }
  return complete;
}

std::string StopMatcher::Release(size_t end) {
  const size_t num_bytes = end - num_released_;
  std::string text = pending_.substr(pending_begin_, num_bytes);
  num_released_ = end;
  pending_begin_ += num_bytes;
  if (pending_begin_ >= pending_.size() / 2) {
    pending_.erase(0, pending_begin_);
    pending_begin_ = 0;
  }
  return text;
}

}  // namespace optserve
