// A device's queue: what is queued runs later, in order, on what then lies in memory, and the host waits for a part of
// it.

#include <gmock/gmock.h>

#include <cstring>
#include <memory>

#include "kernels/cache/kv_cache_ops.h"
#include "kernels/common/op_trail.h"
#include "tests/kernels/cuda/cuda_test.h"
#include "tests/support/emulated_queues.h"
#include "tests/support/reference.h"

namespace optserve {
namespace {

class CudaQueueTest : private EmulatedQueues, public CudaTest, public testing::WithParamInterface<bool> {
 protected:
  CudaQueueTest() : EmulatedQueues(GetParam()) {}

  struct HostFree {
    CudaDevice* device;
    void operator()(float* memory) const { device->FreeHost(memory); }
  };
  using HostFloats = std::unique_ptr<float[], HostFree>;
  HostFloats MakeHost(int64_t count) {
    auto* memory = static_cast<float*>(device_->AllocateHost(static_cast<size_t>(count) * sizeof(float)));
    EXPECT_NE(memory, nullptr);
    return HostFloats(memory, HostFree{device_.get()});
  }
  // to = from, on the device.
  void Copy(const Mirror& from, const Mirror& to) { cuda::CopyRows(ctx_, {.dst = to.device(), .src = from.device()}); }
};

TEST_P(CudaQueueTest, OrdinaryMemoryIsTheHostsAgainAtOnce) {
  Mirror x = Make(DType::kF32, 1, 4), y = Make(DType::kF32, 1, 4);
  float in[4] = {1.0f, 2.0f, 3.0f, 4.0f}, out[4] = {};
  device_->CopyIn(x.device().data, in, sizeof(in));
  in[2] = -1.0f;
  Copy(x, y);
  device_->CopyOut(out, y.device().data, sizeof(out));
  EXPECT_EQ(out[2], 3.0f);
  EXPECT_EQ(device_->Synchronize(), "");
}

// Two steps: the host prepares the second and queues it before it has waited for the first.
TEST_P(CudaQueueTest, AnEventIsBehindWhatWasQueuedBeforeIt) {
  Mirror x = Make(DType::kF32, 1, 4), y = Make(DType::kF32, 1, 4);
  std::vector<HostFloats> in, out;
  std::vector<std::unique_ptr<CudaEvent>> events;
  for (int step = 0; step < 2; ++step) {
    in.push_back(MakeHost(4));
    out.push_back(MakeHost(4));
    events.push_back(device_->MakeEvent());
    ASSERT_NE(events.back(), nullptr);
  }
  for (int round = 0; round < 3; ++round) {
    for (int step = 0; step < 2; ++step) {
      in[step][3] = static_cast<float>(10 * round + step + 1);
      device_->CopyIn(x.device().data, in[step].get(), 4 * sizeof(float));
      Copy(x, y);
      device_->CopyOut(out[step].get(), y.device().data, 4 * sizeof(float));
      device_->Record(*events[step]);
    }
    for (int step = 0; step < 2; ++step) {
      ASSERT_EQ(device_->Wait(*events[step]), "");
      EXPECT_EQ(out[step][3], static_cast<float>(10 * round + step + 1));
    }
  }
}

#if !defined(OPTSERVE_ON_GPU)

// Not more than it must: a GPU may be as far as it likes.
TEST_P(CudaQueueTest, LateWorkBehindAnEventIsNotRun) {
  if (!GetParam()) return;  // at once
  Mirror x = Make(DType::kF32, 1, 4), y = Make(DType::kF32, 1, 4);
  x.Randomize(1);
  const HostFloats first = MakeHost(1), second = MakeHost(1);
  const std::unique_ptr<CudaEvent> event = device_->MakeEvent();
  Copy(x, y);
  device_->CopyOut(first.get(), y.device().data, sizeof(float));
  device_->Record(*event);
  device_->CopyOut(second.get(), y.device().data, sizeof(float));
  EXPECT_EQ(first[0], 0.0f);
  EXPECT_EQ(device_->Wait(*event), "");
  EXPECT_EQ(first[0], reference::At(x.host(), 0, 0));
  EXPECT_EQ(second[0], 0.0f);
  EXPECT_EQ(device_->Synchronize(), "");
  EXPECT_EQ(second[0], first[0]);
}

#endif

INSTANTIATE_TEST_SUITE_P(Early, CudaQueueTest, testing::Values(false));
INSTANTIATE_TEST_SUITE_P(Late, CudaQueueTest, testing::Values(true));

TEST(OpTrailTest, TellsOfWhatHasNotBeenWaitedFor) {
  OpTrail trail;
  EXPECT_EQ(trail.Any(), "");
  trail.Begin("Embedding");
  EXPECT_EQ(trail.Any(), "Embedding");
  const long first = trail.Mark();
  trail.Begin("Linear");
  trail.Begin("Sample");
  const long second = trail.Mark();
  EXPECT_EQ(trail.Any(), "one of 3 ops, Embedding to Sample");
  EXPECT_EQ(trail.Last(), "Sample");
  trail.ClearTo(first);
  EXPECT_EQ(trail.Any(), "one of 2 ops, Linear to Sample");
  trail.Begin("CopyOut");
  trail.ClearTo(second);
  EXPECT_EQ(trail.Any(), "CopyOut");
  trail.Clear();
  EXPECT_EQ(trail.Any(), "");
  EXPECT_EQ(trail.Last(), "");
}

}  // namespace
}  // namespace optserve
