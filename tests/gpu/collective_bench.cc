// Measures the all-reduce of our own over sizes, on all GPUs of the machine or as several ranks on one: a JSON object a
// line.
//
//   gpu_collective_bench [--ranks 2,4] [--smoke]
//
// The sum of each size is looked at first: the same bits on every rank, those of a binary tree. Then come many calls
// in a row on every rank; the figure is that of the slowest. Ranks that share a GPU share its memory's bandwidth and
// its multiprocessors too, and no link is between them: such a time is of the kernel and its flags, not of NVLink.

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "kernels/collective/all_reduce.h"
#include "tests/gpu/measure.h"
#include "tests/kernels/cuda/peer_ranks.h"

namespace optserve {
namespace {

struct Size {
  int64_t rows, width;
};

class CollectiveBench {
 public:
  CollectiveBench(int size, AllReduceVariant variant, const std::vector<Size>& sizes, bool smoke)
      : sizes_(sizes),
        smoke_(smoke),
        ranks_(size, {.max_width = MaxWidth(sizes), .variant = variant}, smoke ? 2 : kMaxPeerBlocks,
               MaxElements(sizes) * static_cast<int64_t>(sizeof(float)) + 1024) {
    if (!ranks_.has_gpu()) OpenGpu();  // which says why
    name_ = "all-reduce, " + std::to_string(size) + " ranks on " + std::to_string(ranks_.num_gpus()) +
            (ranks_.num_gpus() == 1 ? " GPU, " : " GPUs, ") +
            (variant == AllReduceVariant::kOneShot ? "one-shot, " : "two-shot, ");
  }

  // False: a sum is wrong, or the ranks wait for each other for ever.
  bool Run() {
    for (const Size& size : sizes_) {
      const std::string name = name_ + std::to_string(size.rows) + " x " + std::to_string(size.width);
      if (!ranks_.error().empty()) {
        PrintMissing(name, ranks_.error());
      } else if (!IsRight(size)) {
        std::fprintf(stderr, "%s: the sum is wrong, or no rank gets on\n", name.c_str());
        return false;
      } else {
        const double seconds = Seconds(size);
        if (seconds == 0) return false;
        const auto bytes = static_cast<double>(size.rows * size.width * 4);
        Print({.name = name, .seconds = seconds, .achieved = bytes / seconds / 1e9, .unit = "GB/s"});
      }
    }
    return true;
  }

 private:
  static int64_t MaxWidth(const std::vector<Size>& sizes) {
    int64_t most = 0;
    for (const Size& size : sizes) most = std::max(most, size.width);
    return most;
  }
  static int64_t MaxElements(const std::vector<Size>& sizes) {
    int64_t most = 0;
    for (const Size& size : sizes) most = std::max(most, size.rows * size.width);
    return most;
  }

  bool IsRight(const Size& size) {
    const int64_t count = size.rows * size.width;
    const std::vector<float> expected = TreeSum(0, ranks_.size(), count, 0);
    std::vector<int> same(static_cast<size_t>(ranks_.size()));
    const bool ended = ranks_.Run([&](int rank) {
      DeviceFloats values(ranks_.memory(rank), RandomValues(rank, count, 0));
      ranks_.link(rank).AllReduce(values.view(size.rows));
      same[static_cast<size_t>(rank)] = values.Get() == expected ? 1 : 0;
    });
    return ended && std::all_of(same.begin(), same.end(), [](int x) { return x == 1; });
  }

  // 0: they do not get on.
  double Seconds(const Size& size) {
    const int calls = smoke_ ? 2 : 200;
    std::vector<double> seconds(static_cast<size_t>(ranks_.size()));
    std::barrier together(ranks_.size());
    const bool ended = ranks_.Run([&](int rank) {
      // Zeros stay zeros however often they are added up.
      DeviceFloats values(ranks_.memory(rank), std::vector<float>(static_cast<size_t>(size.rows * size.width)));
      for (const bool counted : {false, true}) {
        values.Get();
        together.arrive_and_wait();
        const auto begin = std::chrono::steady_clock::now();
        for (int i = 0; i < calls; ++i) ranks_.link(rank).AllReduce(values.view(size.rows));
        if (!ranks_.memory(rank).device().Synchronize().empty()) return together.arrive_and_drop();
        const double all = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
        if (counted) seconds[static_cast<size_t>(rank)] = all / calls;
      }
    });
    return ended ? *std::max_element(seconds.begin(), seconds.end()) : 0;
  }

  const std::vector<Size> sizes_;
  const bool smoke_;
  Ranks ranks_;
  std::string name_;
};

int Main(int argc, char** argv) {
  const Options options(argc, argv, {"ranks", "smoke!"});
  const bool smoke = options.Has("smoke");
  // What decoding sends: a row of hidden numbers a sequence; and what a chunk of a prompt does.
  const std::vector<Size> sizes =
      smoke ? std::vector<Size>{{1, 64}, {3, 40}}
            : std::vector<Size>{{1, 4096}, {1, 12288}, {4, 12288}, {8, 12288}, {32, 12288}, {128, 12288}, {512, 12288}};
  for (const std::string& ranks : SplitList(options.Get("ranks", smoke ? "2,4" : "2,4,8,16"))) {
    for (const AllReduceVariant variant : {AllReduceVariant::kOneShot, AllReduceVariant::kTwoShot}) {
      if (!CollectiveBench(std::atoi(ranks.c_str()), variant, sizes, smoke).Run()) return 1;
    }
  }
  return 0;
}

}  // namespace
}  // namespace optserve

int main(int argc, char** argv) { return optserve::Main(argc, argv); }
