#include "server/completion/text_track.h"

#include <gtest/gtest.h>

#include <random>

#include "server/text/utf8.h"
#include "tests/server/completion/demo_tokenizer.h"

namespace optserve {
namespace {

// Where each token begins, from all the bytes at once: in the unit that holds its first byte.
std::vector<int32_t> NaiveBegins(const std::vector<int32_t>& ids, bool skip_special) {
  std::string bytes;
  std::vector<size_t> first_bytes;
  std::vector<bool> shows;
  for (const int32_t id : ids) {
    first_bytes.push_back(bytes.size());
    const bool hidden = skip_special && DemoTokenizer().IsSpecial(id);
    const std::string_view token = hidden ? std::string_view() : DemoTokenizer().TokenBytes(id);
    shows.push_back(!token.empty());
    bytes += token;
  }
  std::vector<int32_t> unit_of_byte;
  std::string_view rest = bytes;
  for (int32_t unit = 0; !rest.empty(); ++unit) {
    const size_t num_bytes = NextUtf8Unit(rest).num_bytes;
    unit_of_byte.insert(unit_of_byte.end(), num_bytes, unit);
    rest.remove_prefix(num_bytes);
  }
  std::vector<int32_t> begins;
  for (size_t i = 0; i < ids.size(); ++i) {
    // One that shows nothing stands behind the characters that are complete before it.
    std::string before = bytes.substr(0, first_bytes[i]);
    Utf8Stream stream;
    const auto complete = static_cast<int32_t>(CountCodePoints(stream.Push(before)));
    begins.push_back(shows[i] ? unit_of_byte[first_bytes[i]] : complete);
  }
  return begins;
}

TEST(TextTrackTest, TokensBeginWhereAllTheBytesSayTheyDo) {
  std::mt19937 random(5);
  for (int round = 0; round < 20'000; ++round) {
    const bool skip_special = random() % 2 == 0;
    std::vector<int32_t> ids;
    for (size_t i = random() % 10; i > 0; --i) {
      constexpr std::string_view kBytes =
          "\xe2\x82\xac\xf0\x9f\x98\x80\xed\xa0\xc3\xa9\xff\xef\xbf\xbd"
          "a";
      switch (random() % 4) {
        case 0:
          ids.push_back(static_cast<int32_t>(random() % DemoTokenizer().size()));
          break;
        case 1:
          ids.push_back(static_cast<int32_t>(random() % 4));  // special
          break;
        default:
          ids.push_back(IdOf(kBytes.substr(random() % kBytes.size(), 1)));
      }
    }
    TextTrack track(&DemoTokenizer(), skip_special);
    std::string text;
    std::vector<int32_t> begins;
    for (const int32_t id : ids) {
      const TextTrack::Piece piece = track.Append(id);
      text += piece.text;
      begins.push_back(piece.begin);
      ASSERT_EQ(track.length(), static_cast<int32_t>(CountCodePoints(text)));
    }
    text += track.Flush();
    ASSERT_EQ(text, DemoTokenizer().Decode(ids, skip_special));
    ASSERT_EQ(begins, NaiveBegins(ids, skip_special));
  }
}

TEST(TextTrackTest, GoesOnBehindOtherText) {
  TextTrack track(&DemoTokenizer(), true);
  track.Skip(7);
  EXPECT_EQ(track.Append(IdOf("a")).begin, 7);
  EXPECT_EQ(track.length(), 8);
}

TEST(TextTrackTest, ShowsNothingWithoutATokenizer) {
  TextTrack track(nullptr, true);
  const TextTrack::Piece piece = track.Append(50);
  EXPECT_EQ(piece.text, "");
  EXPECT_EQ(piece.begin, 0);
  EXPECT_EQ(track.Flush(), "");
}

}  // namespace
}  // namespace optserve
