#include "engine/scheduler/ngram_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace optserve {
namespace {

using ::testing::ElementsAreArray;

std::vector<int32_t> NaiveBanned(const std::vector<int32_t>& tokens, int32_t n) {
  std::vector<int32_t> banned;
  for (int64_t end = n - 1; end < std::ssize(tokens); ++end) {
    const bool is_same = std::equal(tokens.end() - (n - 1), tokens.end(), tokens.begin() + end - (n - 1));
    if (is_same && std::ranges::find(banned, tokens[end]) == banned.end()) banned.push_back(tokens[end]);
  }
  return banned;
}

TEST(NgramIndexTest, BansWhatANaiveSearchBans) {
  std::mt19937 random(1);
  for (const int32_t n : {1, 2, 3, 5, 40}) {
    std::vector<int32_t> tokens;
    NgramIndex index(&tokens, n);
    for (int i = 0; i < 300; ++i) {
      ASSERT_THAT(index.Banned(), ElementsAreArray(NaiveBanned(tokens, n))) << "n " << n << " after " << i;
      tokens.push_back(static_cast<int32_t>(random() % 4));
      if (i % 3 == 0) tokens.push_back(0);
      index.Update();
    }
  }
}

}  // namespace
}  // namespace optserve
