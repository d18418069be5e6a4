// All-reduce and all-gather over the memory of several GPUs: a thread for each rank, on emulated GPUs, or on real ones,
// where ranks share a GPU if there are fewer.

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "kernels/collective/all_reduce.h"
#include "kernels/collective/peer_arena.h"
#include "tests/kernels/cuda/peer_ranks.h"

namespace optserve {
namespace {

using std::chrono::microseconds;

// Rows of `width` at a distance of `stride`.
std::vector<float> Spread(const std::vector<float>& rows, int64_t width, int64_t stride) {
  std::vector<float> spread(rows.size() / static_cast<size_t>(width) * static_cast<size_t>(stride), 1e6f);
  for (size_t i = 0; i < rows.size(); ++i) {
    const size_t row = i / static_cast<size_t>(width);
    spread[row * static_cast<size_t>(stride) + i % static_cast<size_t>(width)] = rows[i];
  }
  return spread;
}

struct Case {
  int size;
  AllReduceVariant variant;
};

class CollectiveTest : public testing::TestWithParam<Case> {
 protected:
  static constexpr int64_t kMaxWidth = 640;

  // A group without links: arenas whose flags and counts of calls are `count` and whose regions are `fill`.
  class BareGroup {
   public:
    BareGroup(Ranks& ranks, int max_blocks, int64_t region_floats, uint32_t count, float fill) : ranks_(ranks) {
      group_ = {.size = ranks.size(), .max_blocks = max_blocks, .region_floats = region_floats};
      const std::vector<uint32_t> header(kPeerHeaderBytes / sizeof(uint32_t), count);
      const std::vector<float> regions(static_cast<size_t>(ArenaFloats()), fill);
      for (int rank = 0; rank < ranks.size(); ++rank) {
        CudaDevice& device = ranks.device(rank);
        group_.arenas[rank] =
            static_cast<std::byte*>(device.Allocate(static_cast<size_t>(PeerArenaBytes(region_floats))));
        device.CopyIn(group_.arenas[rank], header.data(), kPeerHeaderBytes);
        device.CopyIn(group_.arenas[rank] + kPeerHeaderBytes, regions.data(), regions.size() * sizeof(float));
        EXPECT_EQ(device.Synchronize(), "");
      }
      words_ = static_cast<uint32_t*>(ranks.device(0).AllocateHost((kMaxPeers + 1) * 128));
      group_.abort = words_;
    }
    ~BareGroup() {
      ranks_.device(0).FreeHost(words_);
      for (int rank = 0; rank < ranks_.size(); ++rank) ranks_.device(rank).Free(group_.arenas[rank]);
    }
    BareGroup(const BareGroup&) = delete;

    PeerGroup Of(int rank) const {
      PeerGroup own = group_;
      own.rank = rank;
      own.arrivals = words_ + (rank + 1) * 32;
      return own;
    }
    // What lies in a rank's regions.
    std::vector<float> Regions(int rank) const {
      std::vector<float> regions(static_cast<size_t>(ArenaFloats()));
      ranks_.device(rank).CopyOut(regions.data(), group_.arenas[rank] + kPeerHeaderBytes,
                                  regions.size() * sizeof(float));
      EXPECT_EQ(ranks_.device(rank).Synchronize(), "");
      return regions;
    }

   private:
    int64_t ArenaFloats() const {
      return (PeerArenaBytes(group_.region_floats) - kPeerHeaderBytes) / static_cast<int64_t>(sizeof(float));
    }

    Ranks& ranks_;
    PeerGroup group_;
    uint32_t* words_ = nullptr;
  };

  // body(rank) on a thread for each.
  void RunRanks(const std::function<void(int)>& body) {
    if (!ranks_.Run(body)) ADD_FAILURE() << "no collective has ended for 60 s";
  }

  void SetUp() override {
    if (ranks_.has_gpu()) {
      ASSERT_EQ(ranks_.error(), "");
    } else if (std::getenv("OPTSERVE_NEED_GPU") != nullptr) {
      FAIL() << OpenCudaDevice(0).error;
    } else {  // a build for GPUs on a machine without one; the emulator always has them
      GTEST_SKIP() << OpenCudaDevice(0).error;
    }
  }

  Ranks ranks_{GetParam().size,
               {.max_width = kMaxWidth, .variant = GetParam().variant},
               /*max_blocks=*/4,  // so that some launches have more rows than blocks
               /*memory_bytes=*/int64_t{8} << 20};
};

TEST_P(CollectiveTest, SumsByATreeToTheSameBitsEverywhere) {
  // One element, odd widths, a width of fewer vectors than ranks, more rows than blocks, more than a region holds.
  const std::vector<std::pair<int64_t, int64_t>> shapes = {{1, 1}, {3, 7}, {2, 8}, {1, 640}, {11, 100}, {3, 5000}};
  for (const auto& [rows, width] : shapes) {
    const std::vector<float> expected = TreeSum(0, ranks_.size(), rows * width, 0);
    std::vector<std::vector<float>> results(static_cast<size_t>(ranks_.size()));
    RunRanks([&, rows = rows, width = width](int rank) {
      DeviceFloats values(ranks_.memory(rank), RandomValues(rank, rows * width, 0));
      ranks_.link(rank).AllReduce(values.view(rows));
      results[rank] = values.Get();
    });
    for (const std::vector<float>& result : results) ASSERT_EQ(result, expected) << rows << " x " << width;
  }
}

TEST_P(CollectiveTest, GathersShardsInRankOrder) {
  for (const int64_t count : {1, 300, 1024, 20'001}) {
    std::vector<float> expected;
    for (int rank = 0; rank < ranks_.size(); ++rank) {
      const std::vector<float> values = RandomValues(rank, count, 0);
      expected.insert(expected.end(), values.begin(), values.end());
    }
    std::vector<std::vector<float>> results(static_cast<size_t>(ranks_.size()));
    RunRanks([&](int rank) {
      DeviceFloats shard(ranks_.memory(rank), RandomValues(rank, count, 0));
      DeviceFloats all(ranks_.memory(rank), std::vector<float>(expected.size()));
      ranks_.link(rank).AllGather(shard.view(), all.view(ranks_.size()));
      results[rank] = all.Get();
    });
    for (const std::vector<float>& result : results) ASSERT_EQ(result, expected) << count;
  }
}

TEST_P(CollectiveTest, FusedHasTheBitsOfTheThree) {
  constexpr int64_t kRows = 5;
  for (const int64_t width : {640, 77}) {
    const std::vector<float> x = RandomValues(100, kRows * width, 1), bias = RandomValues(101, width, 1);
    std::vector<std::vector<float>> one(static_cast<size_t>(ranks_.size())), three(one), normed_one(one),
        normed_three(one);
    RunRanks([&](int rank) {
      RankMemory& memory = ranks_.memory(rank);
      const auto run = [&](bool fused, bool with_norm, std::vector<float>& sum, std::vector<float>* normed) {
        const std::vector<float> summands = RandomValues(rank, kRows * width, 2);
        // The fused kernel takes rows that do not follow each other without a gap.
        const int64_t stride = fused ? width + 4 : width;
        DeviceFloats partial(memory, Spread(summands, width, stride)), residual(memory, x), b(memory, bias);
        DeviceFloats out(memory, x);
        const AddBiasResidualParams add{
            .x = residual.view(kRows), .partial = partial.view(kRows).Columns(0, width), .bias = b.view()};
        const LayerNormParams norm{.out = out.view(kRows), .x = residual.view(kRows), .weight = b.view()};
        if (fused) {
          ranks_.link(rank).AllReduceAddNorm(add, with_norm ? &norm : nullptr);
        } else {
          ranks_.link(rank).AllReduce(partial.view(kRows));
          cuda::AddBiasResidualNorm(ranks_.context(rank), add, norm);
        }
        sum = residual.Get();
        if (normed != nullptr) *normed = out.Get();
      };
      run(false, true, three[rank], &normed_three[rank]);
      run(true, true, one[rank], &normed_one[rank]);
      EXPECT_EQ(one[rank], three[rank]) << rank;
      run(true, false, one[rank], nullptr);
      EXPECT_EQ(one[rank], three[rank]) << rank;
    });
    for (int rank = 0; rank < ranks_.size(); ++rank) {
      EXPECT_EQ(normed_one[rank], normed_three[rank]) << rank;
      EXPECT_EQ(one[rank], one[0]) << rank;
    }
  }
}

class SkewedCollectiveTest : public CollectiveTest {};

// Calls of all kinds and sizes follow each other without pause, but for random ones of single ranks; every result is
// looked at. Over all cases 10,200 calls.
TEST_P(SkewedCollectiveTest, ManyCallsDoNotMix) {
  const char* scale = std::getenv("OPTSERVE_COLLECTIVE_ROUNDS");
  const int size = ranks_.size();
  const int rounds = scale != nullptr ? std::atoi(scale) : size == 2 ? 2500 : size == 5 ? 1800 : 800;
  RunRanks([&](int rank) {
    RankMemory& memory = ranks_.memory(rank);
    std::mt19937 delay(static_cast<unsigned>(rank)), shape(7);  // the same shapes on all ranks
    for (int round = 0; round < rounds; ++round) {
      if (delay() % 8 == 0) std::this_thread::sleep_for(microseconds(delay() % 300));
      const int64_t rows = 1 + shape() % 3, width = 1 + shape() % 40;
      // Small integers, whose sums are exact in any order.
      std::vector<float> values(static_cast<size_t>(rows * width));
      for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>((round + rank * (i + 1)) % 1000);
      DeviceFloats mine(memory, values);
      if (round % 3 != 2) {
        ranks_.link(rank).AllReduce(mine.view(rows));
        const std::vector<float> sums = mine.Get();
        for (size_t i = 0; i < sums.size(); ++i) {
          float expected = 0.0f;
          for (int r = 0; r < size; ++r) expected += static_cast<float>((round + r * (i + 1)) % 1000);
          ASSERT_EQ(sums[i], expected) << "rank " << rank << " round " << round << " element " << i;
        }
        continue;
      }
      DeviceFloats all(memory, std::vector<float>(values.size() * size));
      ranks_.link(rank).AllGather(mine.view(), all.view(size));
      const std::vector<float> gathered = all.Get();
      for (size_t i = 0; i < gathered.size(); ++i) {
        const size_t r = i / values.size(), at = i % values.size();
        ASSERT_EQ(gathered[i], static_cast<float>((round + r * (at + 1)) % 1000))
            << "rank " << rank << " round " << round;
      }
    }
  });
  for (int rank = 0; rank < size; ++rank) EXPECT_EQ(ranks_.link(rank).num_arrivals(), static_cast<uint64_t>(rounds));
}

// The last rank never comes; the others would wait for ever. Who is behind has begun fewer calls.
TEST_P(CollectiveTest, AbortEndsAllWaiting) {
  const int last = ranks_.size() - 1;
  std::atomic<int> waiting = 0;
  RunRanks([&](int rank) {
    DeviceFloats values(ranks_.memory(rank), RandomValues(rank, 40, 0));
    ranks_.link(rank).AllReduce(values.view(2));
    if (rank == last) {
      while (waiting.load() < last) std::this_thread::yield();
      std::this_thread::sleep_for(microseconds(2000));
      ranks_.link(rank).Abort();
      return;
    }
    const std::vector<float> sum = values.Get();
    ++waiting;
    ranks_.link(rank).AllReduce(values.view(2));
    EXPECT_EQ(values.Get(), sum) << "a sum without the last rank's part";
    ranks_.link(rank).AllGather(
        values.view(),
        DeviceFloats(ranks_.memory(rank), std::vector<float>(40 * 16)).view().Rows(0, 40 * ranks_.size()));
    values.Get();
  });
  EXPECT_EQ(ranks_.link(last).num_arrivals(), 1u);
  for (int rank = 0; rank < last; ++rank) EXPECT_EQ(ranks_.link(rank).num_arrivals(), 3u);
}

// Counts of calls are 32 bits, and flags are compared so that a small one follows a large one.
TEST_P(CollectiveTest, CallsGoOnBeyondTwoToThe32) {
  const int size = ranks_.size();
  BareGroup group(ranks_, /*max_blocks=*/2, PeerRegionFloats(size, 64), /*count=*/0xfffffffdu, /*fill=*/0.0f);
  RunRanks([&](int rank) {
    std::mt19937 delay(static_cast<unsigned>(rank));
    for (int round = 0; round < 8; ++round) {
      std::this_thread::sleep_for(microseconds(delay() % 300));
      DeviceFloats values(ranks_.memory(rank), RandomValues(rank, 2 * 40, round));
      cuda::AllReduce(ranks_.context(rank), group.Of(rank), GetParam().variant, values.view(2));
      EXPECT_EQ(values.Get(), TreeSum(0, size, 2 * 40, round)) << "round " << round;
    }
  });
}

// A row of one vector, of which most ranks sum nothing, in regions that have just the room for it: what lies behind is
// another block's, which waits for nobody here.
TEST_P(CollectiveTest, NothingIsWrittenBehindARegion) {
  constexpr int64_t kWidth = 4;
  constexpr float kNobodys = 12345.0f;
  const int size = ranks_.size();
  const int64_t region = PeerSlice(kWidth, size) * size + kWidth;
  BareGroup group(ranks_, /*max_blocks=*/1, region, /*count=*/0, kNobodys);
  RunRanks([&](int rank) {
    for (int round = 0; round < 2; ++round) {  // one for each of the block's regions
      DeviceFloats values(ranks_.memory(rank), RandomValues(rank, kWidth, round));
      cuda::AllReduce(ranks_.context(rank), group.Of(rank), GetParam().variant, values.view(1));
      EXPECT_EQ(values.Get(), TreeSum(0, size, kWidth, round)) << "round " << round;
    }
  });
  for (int rank = 0; rank < size; ++rank) {
    const std::vector<float> regions = group.Regions(rank);
    for (size_t i = static_cast<size_t>(2 * region); i < regions.size(); ++i) ASSERT_EQ(regions[i], kNobodys) << i;
  }
}

std::vector<Case> Cases(std::initializer_list<int> sizes) {
  std::vector<Case> cases;
  for (const int size : sizes) {
    cases.push_back({size, AllReduceVariant::kOneShot});
    cases.push_back({size, AllReduceVariant::kTwoShot});
  }
  return cases;
}
std::string CaseName(const testing::TestParamInfo<Case>& info) {
  return std::to_string(info.param.size) +
         (info.param.variant == AllReduceVariant::kOneShot ? "_one_shot" : "_two_shot");
}
INSTANTIATE_TEST_SUITE_P(Ranks, CollectiveTest, testing::ValuesIn(Cases({2, 3, 4, 5, 6, 7, 8, 11, 16})), CaseName);
INSTANTIATE_TEST_SUITE_P(Ranks, SkewedCollectiveTest, testing::ValuesIn(Cases({2, 5, 16})), CaseName);

}  // namespace
}  // namespace optserve
