// Text to ids, ids to text, and stop strings, with OPT's own tokenizer. The first line of the input is stop strings
// (separated by '|'), the rest is taken once as text and once as 16-bit ids.
//
// Encode and Decode are inverse. Streams of pieces say what the whole says. The stop string found is the one that a
// plain search finds.

#include <random>
#include <vector>

#include "server/text/detokenizer.h"
#include "server/text/stop_matcher.h"
#include "server/text/tokenizer.h"
#include "tests/fuzz/fuzz.h"

using namespace optserve;

namespace {

const Tokenizer& OptTokenizer() {
  static const Tokenizer tokenizer = [] {
    auto loaded = Tokenizer::Load(OPTSERVE_SOURCE_DIR "/tests/data/opt-tokenizer");
    FUZZ_CHECK(loaded.ok());
    return *std::move(loaded);
  }();
  return tokenizer;
}

void CheckEncoding(std::string_view text) {
  const auto encoding = OptTokenizer().EncodeWithOffsets(text, {.add_special_tokens = false});
  if (FindInvalidUtf8(text)) {
    FUZZ_CHECK(absl::IsInvalidArgument(encoding.status()));
    return;
  }
  FUZZ_CHECK(encoding.ok() && encoding->ids.size() == encoding->offsets.size());
  FUZZ_CHECK(OptTokenizer().Decode(encoding->ids, /*skip_special=*/false) == text);
  const auto size = static_cast<int32_t>(CountCodePoints(text));
  int32_t last = 0;
  for (const TextSpan& span : encoding->offsets) {
    FUZZ_CHECK(span.begin >= 0 && span.begin <= span.end && span.end <= size && span.end >= last);
    last = span.end;
  }
  FUZZ_CHECK(text.empty() || last == size);
}

std::string CheckDetokenizer(const std::vector<int32_t>& ids, bool skip_special) {
  Detokenizer detokenizer(OptTokenizer(), skip_special);
  std::string streamed;
  for (const int32_t id : ids) {
    const std::string piece = detokenizer.Append(id);
    FUZZ_CHECK(!FindInvalidUtf8(piece) && detokenizer.pending().size() <= 3);
    streamed += piece;
  }
  streamed += detokenizer.Flush();
  FUZZ_CHECK(streamed == OptTokenizer().Decode(ids, skip_special));
  return streamed;
}

// The match whose end comes first; of those the one that begins first.
std::optional<StopMatcher::Match> PlainSearch(std::string_view text, const std::vector<std::string>& stops) {
  std::optional<StopMatcher::Match> best;
  for (size_t i = 0; i < stops.size(); ++i) {
    if (stops[i].empty()) continue;
    const size_t begin = text.find(stops[i]);
    if (begin == text.npos) continue;
    const StopMatcher::Match match{.stop_index = i, .begin = begin, .end = begin + stops[i].size()};
    if (!best || match.end < best->end || (match.end == best->end && match.begin < best->begin)) best = match;
  }
  return best;
}

void CheckStops(std::string_view text, const std::vector<std::string>& stops, unsigned seed) {
  StopMatcher matcher(stops);
  std::minstd_rand random(seed + 1);
  std::string shown;
  std::optional<StopMatcher::Match> found;
  for (std::string_view rest = text; !rest.empty() && !found;) {
    const std::string_view piece = rest.substr(0, 1 + random() % 9);
    rest.remove_prefix(piece.size());
    StopMatcher::Output output = matcher.Push(piece);
    shown += output.text;
    found = output.match;
  }
  if (!found) shown += matcher.Flush();
  const std::optional<StopMatcher::Match> wanted = PlainSearch(text, stops);
  FUZZ_CHECK(found.has_value() == wanted.has_value());
  if (found) FUZZ_CHECK(found->begin == wanted->begin && found->end == wanted->end);
  FUZZ_CHECK(shown == text.substr(0, wanted ? wanted->begin : text.npos));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view input = fuzz::Text(data, size);
  std::string_view line = fuzz::TakePart(input, '\n');
  std::vector<std::string> stops;
  while (!line.empty() && stops.size() < 16) stops.emplace_back(fuzz::TakePart(line, '|'));
  CheckEncoding(input);
  CheckStops(input, stops, static_cast<unsigned>(size));

  std::vector<int32_t> ids;
  for (size_t i = 0; i + 1 < input.size(); i += 2) {
    ids.push_back(static_cast<uint8_t>(input[i]) | static_cast<uint8_t>(input[i + 1]) << 8);
  }
  CheckDetokenizer(ids, /*skip_special=*/true);
  CheckStops(CheckDetokenizer(ids, /*skip_special=*/false), stops, static_cast<unsigned>(size));
  return 0;
}
