#include "kernels/backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace optserve {
namespace {

TEST(BackendTest, SaysWhatItRunsOn) {
  const std::unique_ptr<Backend> backend = *MakeBackend({.num_threads = 3});
  EXPECT_EQ(backend->info().num_threads, 3);
  EXPECT_FALSE(backend->info().name.empty());
  EXPECT_GT(backend->info().memory_bytes, 0);
  EXPECT_GT((*MakeBackend({}))->info().num_threads, 0);
}

TEST(BackendTest, ABuildWithoutCudaSaysWhatToUse) {
  const auto backend = MakeBackend({.kind = DeviceKind::kCuda});
  EXPECT_EQ(backend.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(backend.status().message()), testing::HasSubstr("--device cpu"));
}

TEST(BackendTest, MemoryIsZeroAndAligned) {
  const std::unique_ptr<Backend> backend = *MakeBackend({.num_threads = 1});
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{3} << 20}) {
    const std::unique_ptr<Buffer> buffer = *backend->Allocate(bytes);
    EXPECT_GE(buffer->size(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0u);
    const auto* begin = static_cast<const char*>(buffer->data());
    EXPECT_TRUE(std::all_of(begin, begin + bytes, [](char c) { return c == 0; }));
  }
}

TEST(BackendTest, MemoryThatTheMachineCannotGiveIsRefusedWithTheNumbers) {
  const std::unique_ptr<Backend> backend = *MakeBackend({.num_threads = 1});
  const auto buffer = backend->Allocate(size_t{1} << 60);
  EXPECT_EQ(buffer.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(buffer.status().message()), testing::HasSubstr("1152921504606846976 bytes"));
  EXPECT_THAT(std::string(buffer.status().message()), testing::HasSubstr(std::to_string(backend->info().memory_bytes)));
}

TEST(BackendTest, CopiesInAndOutAndUsesWeightsWhereTheyLie) {
  const std::unique_ptr<Backend> backend = *MakeBackend({.num_threads = 2});
  const std::unique_ptr<Buffer> buffer = *backend->Allocate(6 * sizeof(float));
  const TensorView view = MakeView(buffer->data(), DType::kF32, 2, 3);
  const std::vector<float> numbers = {1, 2, 3, 4, 5, 6};
  backend->CopyIn(view, numbers.data());
  std::vector<float> back(3);
  backend->CopyOut(back.data(), view.Rows(1, 1));
  EXPECT_TRUE(backend->Synchronize().ok());
  EXPECT_THAT(back, testing::ElementsAre(4, 5, 6));

  std::vector<float> weight = {1, 2};
  EXPECT_EQ(backend->LoadWeight(MakeView(weight.data(), DType::kF32, 2))->data, weight.data());
}

}  // namespace
}  // namespace optserve
