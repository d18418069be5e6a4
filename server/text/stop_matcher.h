#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace optserve {

// Watches one choice's text for stop strings, also when they are spread over several pieces. Text that may turn out to
// be the start of a stop string is held back: exactly the longest end of the text so far that is a proper beginning of
// some stop string. When pieces and stop strings are whole UTF-8 characters, so is everything it returns.
//
// Which one  the stop string that is complete first; of those complete at the same byte, the longest. So the answer
//            does not depend on how the text was cut into pieces.
// Time       linear in the text, times the number of stop strings. Memory: the stop strings and what is held back.
// Source     Knuth, Morris and Pratt 1977, one automaton per stop string.
//
// No threads: one per choice (copy a fresh one for each of a request's choices).
class StopMatcher {
 public:
  // An empty stop string never matches.
  explicit StopMatcher(std::vector<std::string> stops);

  struct Match {
    size_t stop_index = 0;  // into the stop strings as given
    size_t begin = 0;       // byte positions in the whole text; `begin` is where to cut, `end` is where to cut when
    size_t end = 0;         // the stop string is to be part of the output
  };

  struct Output {
    std::string text;            // may be shown now; never holds any part of the stop string that matched
    std::optional<Match> match;  // the text ends here; what follows in the piece is dropped
  };

  // The next piece of text. After a match it returns nothing more.
  Output Push(std::string_view piece);

  // The text ends without a stop string: what was held back.
  std::string Flush();

 private:
  struct Automaton {
    std::string stop;
    std::vector<size_t> border;  // border[k]: the longest proper prefix of stop[0, k] that is also its suffix
    size_t matched = 0;          // bytes of `stop` that the text so far ends with
  };

  // Feeds one byte to every automaton; the stop string that is complete with it.
  std::optional<size_t> Advance(char byte);

  // Takes the text up to byte `end` of the whole text out of what is held back.
  std::string Release(size_t end);

  size_t text_size() const { return num_released_ + pending_.size() - pending_begin_; }

  std::vector<Automaton> automata_;
  std::string pending_;       // held back from pending_begin_ on; what lies before is erased in bulk, so that holding
  size_t pending_begin_ = 0;  // back much of a long stop string does not cost a move of it per token
  size_t num_released_ = 0;   // bytes returned so far
  bool finished_ = false;
};

}  // namespace optserve
