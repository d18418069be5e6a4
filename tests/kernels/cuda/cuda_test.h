#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/common/cuda_context.h"
#include "tests/support/kernel_test.h"

// What tests of CUDA kernels share. They run on the emulator in CI and, linked with the CUDA runtime, on a GPU.

namespace optserve {

// A tensor of the host and its copy on the device; the memory of both ends with the last element.
class Mirror {
 public:
  Mirror(CudaDevice& device, DType dtype, int64_t rows, int64_t columns, int64_t padding = 0);
  ~Mirror();
  Mirror(Mirror&& other) noexcept;
  Mirror(const Mirror&) = delete;

  // Fills the host's side, uploads.
  Mirror& Randomize(uint32_t seed, float scale = 1.0f);
  Mirror& Fill(const std::vector<int32_t>& values);
  Mirror& Upload();
  // Waits for the device.
  Mirror& Download();

  const TensorView& host() const { return host_; }
  const TensorView& device() const { return device_view_; }
  // Of a tensor of one row.
  TensorView host_vector() const { return MakeView(host_.data, host_.dtype, host_.dims[1]); }
  TensorView device_vector() const { return MakeView(device_view_.data, host_.dtype, host_.dims[1]); }
  void Set(int64_t i, float value);  // element i of the host's memory, f16 rounded by cutting
  // Elements that no kernel may touch, where that can be seen: on the emulator.
  void Forbid(int64_t begin, int64_t count, bool forbidden = true);

 private:
  size_t NumElements() const;

  CudaDevice* device_;
  TestTensor memory_;
  TensorView host_, device_view_;
  std::vector<std::pair<int64_t, int64_t>> forbidden_;
};

// [T, H * D] as [T, H, D].
TensorView AsHeads(const TensorView& matrix, int64_t heads);

// Skips where there is no GPU, unless OPTSERVE_NEED_GPU is set.
class CudaTest : public testing::Test {
 protected:
  // A GPU has the instructions of its own generation and of older ones; the emulator has all.
#if defined(OPTSERVE_ON_GPU)
  static constexpr bool kOnGpu = true;
#else
  static constexpr bool kOnGpu = false;
#endif
  static constexpr size_t kWorkspaceBytes = 256 << 10;

  CudaTest();
  ~CudaTest() override;
  void SetUp() override;

  Mirror Make(DType dtype, int64_t rows, int64_t columns, int64_t padding = 0) {
    return Mirror(*device_, dtype, rows, columns, padding);
  }
  Mirror Ids(const std::vector<int32_t>& values) {
    Mirror ids(*device_, DType::kI32, 1, static_cast<int64_t>(values.size()));
    ids.Fill(values);
    return ids;
  }

  std::unique_ptr<CudaDevice> device_;
  CudaContext ctx_;

 private:
  std::string why_not_;  // there is no device
};

}  // namespace optserve
