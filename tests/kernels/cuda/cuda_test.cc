#include "tests/kernels/cuda/cuda_test.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <utility>

#if !defined(OPTSERVE_ON_GPU)
#include "tests/cuda_emulator/emulator.h"
#endif

namespace optserve {

Mirror::Mirror(CudaDevice& device, DType dtype, int64_t rows, int64_t columns, int64_t padding)
    : device_(&device), memory_(dtype, rows, columns, padding), host_(memory_.view()), device_view_(host_) {
  device_view_.data = device.Allocate(NumElements() * SizeOf(dtype));
  if (device_view_.data == nullptr) throw std::runtime_error("no memory on the device");
}

Mirror::~Mirror() {
  if (device_ == nullptr) return;
  for (const auto& [begin, count] : std::exchange(forbidden_, {})) Forbid(begin, count, false);
  device_->Free(device_view_.data);
}

Mirror::Mirror(Mirror&& other) noexcept
    : device_(std::exchange(other.device_, nullptr)),
      memory_(std::move(other.memory_)),
      host_(other.host_),
      device_view_(other.device_view_),
      forbidden_(std::move(other.forbidden_)) {}

size_t Mirror::NumElements() const {
  return static_cast<size_t>((host_.dims[0] - 1) * host_.row_stride + host_.dims[1]);
}

Mirror& Mirror::Randomize(uint32_t seed, float scale) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  for (size_t i = 0; i < NumElements(); ++i) Set(static_cast<int64_t>(i), normal(random));
  return Upload();
}

Mirror& Mirror::Fill(const std::vector<int32_t>& values) {
  std::memcpy(host_.data, values.data(), values.size() * sizeof(int32_t));
  return Upload();
}

Mirror& Mirror::Upload() {
  device_->CopyIn(device_view_.data, host_.data, NumElements() * SizeOf(host_.dtype));
  return *this;
}

Mirror& Mirror::Download() {
  device_->CopyOut(host_.data, device_view_.data, NumElements() * SizeOf(host_.dtype));
  if (const std::string error = device_->Synchronize(); !error.empty()) throw std::runtime_error(error);
  return *this;
}

void Mirror::Set(int64_t i, float value) { memory_.Set(static_cast<size_t>(i), value); }

void Mirror::Forbid([[maybe_unused]] int64_t begin, [[maybe_unused]] int64_t count, [[maybe_unused]] bool forbidden) {
#if !defined(OPTSERVE_ON_GPU)
  const size_t size = SizeOf(host_.dtype);
  emulator::Forbid(device_view_.as<std::byte>() + static_cast<size_t>(begin) * size, static_cast<size_t>(count) * size,
                   forbidden);
  if (forbidden) forbidden_.emplace_back(begin, count);
#endif
}

TensorView AsHeads(const TensorView& matrix, int64_t heads) {
  TensorView view = matrix;
  view.rank = 3;
  view.dims = {matrix.dims[0], heads, matrix.dims[1] / heads, 0};
  return view;
}

CudaTest::CudaTest() {
  OpenedCudaDevice opened = OpenCudaDevice(0);
  if (opened.device == nullptr) {
    if (std::getenv("OPTSERVE_NEED_GPU") != nullptr) throw std::runtime_error(opened.error);
    why_not_ = opened.error;
    return;
  }
  device_ = std::move(opened.device);
  constexpr int64_t kCounters = 1024;
  ctx_.device = device_.get();
  ctx_.info = device_->info();
  ctx_.stream = device_->stream();
  ctx_.workspace = static_cast<std::byte*>(device_->Allocate(kWorkspaceBytes));
  ctx_.workspace_bytes = kWorkspaceBytes;
  ctx_.counters = static_cast<uint32_t*>(device_->Allocate(kCounters * sizeof(uint32_t)));
  ctx_.num_counters = kCounters;
}

void CudaTest::SetUp() {
  if (device_ == nullptr) GTEST_SKIP() << why_not_;
}

CudaTest::~CudaTest() {
  if (device_ == nullptr) return;
  device_->Free(ctx_.workspace);
  device_->Free(ctx_.counters);
}

}  // namespace optserve
