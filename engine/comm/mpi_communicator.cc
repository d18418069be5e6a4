#include "engine/comm/mpi_communicator.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>
#include <vector>

#include "engine/comm/tree_sum.h"
#include "kernels/common/check.h"

namespace optserve {
namespace {

// Up to here a second trip costs more than sending everything to everyone; a decoding step of the small models.
constexpr int64_t kOneTripElements = 8192;

class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(MpiGroup& group) : group_(group) {}

  int rank() const override { return group_.rank(); }
  int size() const override { return group_.size(); }
  bool sums_as_tree() const override { return true; }
  absl::Status Check() override { return group_.status(); }
  void Abort(const absl::Status& why) override { group_.Abort(why); }
  uint64_t num_arrivals() const override { return num_arrivals_.load(std::memory_order_relaxed); }

  void AllReduceSum(const TensorView& inout) override {
    OPTSERVE_CHECK(inout.dtype == DType::kF32 && inout.is_contiguous());
    if (size() == 1) return;
    const int64_t n = inout.num_elements();
    auto* const numbers = inout.as<float>();
    if (n <= kOneTripElements) {
      // Everybody gets everything and adds it up.
      if (!Swap([&](int) { return Part{numbers, n}; }, n)) return;
      return SumInto(numbers, numbers, n);
    }
    // Everybody adds up one part and sends the sum to all.
    const auto part_of = [&](int rank) {
      const int64_t begin = n * rank / size();
      return Part{numbers + begin, n * (rank + 1) / size() - begin};
    };
    const Part mine = part_of(rank());
    if (!Swap(part_of, mine.size)) return;
    SumInto(mine.data, mine.data, mine.size);
    std::vector<MpiGroup::Transfer> sends;
    std::vector<MpiGroup::Transfer> receives;
    for (int other = 0; other < size(); ++other) {
      if (other == rank()) continue;
      sends.push_back({other, mine.data, static_cast<size_t>(mine.size) * sizeof(float)});
      const Part theirs = part_of(other);
      receives.push_back({other, theirs.data, static_cast<size_t>(theirs.size) * sizeof(float)});
    }
    Exchange(sends, receives);
  }

  void AllGather(const TensorView& shard, const TensorView& all) override {
    OPTSERVE_CHECK(shard.dtype == all.dtype && shard.is_contiguous() && all.is_contiguous());
    OPTSERVE_CHECK(all.num_elements() == shard.num_elements() * size());
    const size_t bytes = shard.num_bytes();
    auto* const to = static_cast<std::byte*>(all.data);
    std::memcpy(to + static_cast<size_t>(rank()) * bytes, shard.data, bytes);
    std::vector<MpiGroup::Transfer> sends;
    std::vector<MpiGroup::Transfer> receives;
    for (int other = 0; other < size(); ++other) {
      if (other == rank()) continue;
      sends.push_back({other, shard.data, bytes});
      receives.push_back({other, to + static_cast<size_t>(other) * bytes, bytes});
    }
    Exchange(sends, receives);
  }

 private:
  struct Part {
    float* data = nullptr;
    int64_t size = 0;
  };

  bool Exchange(const std::vector<MpiGroup::Transfer>& sends, const std::vector<MpiGroup::Transfer>& receives) {
    num_arrivals_.fetch_add(1, std::memory_order_relaxed);
    return group_.Exchange(sends, receives);
  }

  // Sends part_of(r) to every rank r, and gets `n` numbers from each into received_.
  template <typename PartOf>
  bool Swap(const PartOf& part_of, int64_t n) {
    received_.resize(std::max(received_.size(), static_cast<size_t>(n * size())));
    std::vector<MpiGroup::Transfer> sends;
    std::vector<MpiGroup::Transfer> receives;
    for (int other = 0; other < size(); ++other) {
      if (other == rank()) continue;
      const Part part = part_of(other);
      sends.push_back({other, part.data, static_cast<size_t>(part.size) * sizeof(float)});
      receives.push_back({other, received_.data() + n * other, static_cast<size_t>(n) * sizeof(float)});
    }
    return Exchange(sends, receives);
  }

  // sum = the ranks' numbers, this one's being `mine` and the others' in received_. `sum` may be `mine`.
  void SumInto(float* sum, const float* mine, int64_t n) const {
    const auto of_rank = [&](int of) { return of == rank() ? mine : received_.data() + n * of; };
    for (int64_t i = 0; i < n; i += kTreeSumPiece) {
      const int64_t count = std::min(kTreeSumPiece, n - i);
      std::array<float, kTreeSumPiece> piece;
      TreeSum(of_rank, 0, size(), i, count, piece.data());
      std::copy_n(piece.begin(), count, sum + i);
    }
  }

  MpiGroup& group_;
  std::atomic<uint64_t> num_arrivals_{0};
  std::vector<float> received_;  // [size, n]
};

}  // namespace

std::unique_ptr<Communicator> MakeMpiCommunicator(MpiGroup& group) { return std::make_unique<MpiCommunicator>(group); }

}  // namespace optserve
