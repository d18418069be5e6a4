#include "server/text/bpe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <utility>

namespace optserve {
namespace {

using testing::ElementsAre;

using PairRanks = std::map<std::pair<int32_t, int32_t>, MergeTable::Merge>;

// Sennrich et al.'s loop, word for word: find the best pair, join it everywhere it stands first, begin again.
std::vector<int32_t> NaiveMerge(const PairRanks& merges, std::vector<int32_t> tokens) {
  while (true) {
    size_t best = tokens.size();
    uint32_t best_rank = MergeTable::kNoRank;
    for (size_t i = 0; i + 1 < tokens.size(); ++i) {
      const auto found = merges.find({tokens[i], tokens[i + 1]});
      if (found == merges.end() || found->second.rank >= best_rank) continue;
      best = i;
      best_rank = found->second.rank;
    }
    if (best == tokens.size()) return tokens;
    tokens[best] = merges.at({tokens[best], tokens[best + 1]}).result;
    tokens.erase(tokens.begin() + best + 1);
  }
}

TEST(MergeTableTest, FindsWhatWasInserted) {
  MergeTable table(2);
  EXPECT_TRUE(table.Insert(1, 2, {.rank = 0, .result = 7}));
  EXPECT_TRUE(table.Insert(2, 1, {.rank = 1, .result = 8}));
  EXPECT_FALSE(table.Insert(1, 2, {.rank = 2, .result = 9}));
  EXPECT_EQ(table.Find(1, 2).result, 7);
  EXPECT_EQ(table.Find(2, 1).rank, 1u);
  EXPECT_EQ(table.Find(1, 1).rank, MergeTable::kNoRank);
}

TEST(ApplyMergesTest, LowestRankFirstThenLeftmost) {
  MergeTable table(3);
  table.Insert(1, 1, {.rank = 1, .result = 2});
  table.Insert(3, 1, {.rank = 0, .result = 4});
  std::vector<int32_t> ids = {100};
  ApplyMerges(table, std::vector<int32_t>{1, 1, 1, 3, 1}, ids);
  EXPECT_THAT(ids, ElementsAre(100, 2, 1, 4));
  ApplyMerges(table, {}, ids);
  EXPECT_EQ(ids.size(), 4u);
}

// Random merges over few symbols, so that results meet again in later merges, also in an order no training makes.
TEST(ApplyMergesTest, AgreesWithTheNaiveLoopOnWordsOfAnyLength) {
  std::mt19937 random(1);
  for (int round = 0; round < 3000; ++round) {
    const int num_symbols = 2 + static_cast<int>(random() % 8);
    PairRanks naive;
    MergeTable table(40);
    for (uint32_t rank = 0; rank < 40; ++rank) {
      const auto symbol = [&] { return static_cast<int32_t>(random() % (num_symbols + rank / 2)); };
      const MergeTable::Merge merge{.rank = rank, .result = symbol()};
      const std::pair pair(symbol(), symbol());
      EXPECT_EQ(table.Insert(pair.first, pair.second, merge), naive.emplace(pair, merge).second);
    }
    std::vector<int32_t> word(random() % 90);
    for (int32_t& token : word) token = static_cast<int32_t>(random() % num_symbols);
    std::vector<int32_t> ids;
    ApplyMerges(table, word, ids);
    ASSERT_EQ(ids, NaiveMerge(naive, word)) << "round " << round;
  }
}

}  // namespace
}  // namespace optserve
