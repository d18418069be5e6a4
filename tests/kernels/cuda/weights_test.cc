#include <algorithm>
#include <cstring>

#include "kernels/backend_cuda.h"
#include "tests/kernels/cuda/cuda_test.h"
#include "tests/support/reference.h"

// How weights come onto a device: whole or in pieces the same numbers, and a few megabytes of the host at a time.

namespace optserve {
namespace {

class CudaWeightsTest : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (device_ != nullptr) backend_ = *MakeCudaBackend(OpenCudaDevice(0).device, kWorkspaceBytes);
  }

  // Element by element, and zeros between the rows.
  void ExpectOnDevice(const TensorView& weight, const TensorView& host) {
    TensorView stored = weight;  // with what is between the rows
    stored.rank = 2;
    stored.dims = {weight.dims[0], weight.row_stride, 0, 0};
    TestTensor copy(stored.dtype, stored.dims[0], stored.dims[1]);
    backend_->CopyOut(copy.view().data, stored);
    ASSERT_TRUE(backend_->Synchronize().ok());
    for (int64_t row = 0; row < host.dims[0]; ++row) {
      for (int64_t i = 0; i < weight.row_stride; ++i) {
        const double expected = i < host.row_size() ? reference::At(host, row, i) : 0.0;
        ASSERT_EQ(reference::At(copy.view(), row, i), expected) << "[" << row << ", " << i << "]";
      }
    }
  }

  std::unique_ptr<Backend> backend_;
};

// Rows of 4098 halves do not end on 16 bytes; 2,100 of them are more than one band.
TEST_F(CudaWeightsTest, RowsInPiecesAreTheWeight) {
  for (const DType dtype : {DType::kF16, DType::kF32}) {
    TestTensor host(dtype, 2100, 4098);
    for (size_t i = 0; i < 2100 * 4098; ++i) host.Set(i, static_cast<float>(i % 1009));  // f16 holds them
    const absl::StatusOr<TensorView> whole = backend_->LoadWeight(host.view());
    ASSERT_TRUE(whole.ok()) << whole.status();
    ExpectOnDevice(*whole, host.view());

    int64_t next = 0;
    size_t largest = 0;
    const auto read = [&](int64_t row, int64_t count, std::byte* out) {
      EXPECT_EQ(row, next);
      next = row + count;
      const TensorView rows = host.view().Rows(row, count);
      largest = std::max(largest, rows.num_bytes());
      std::memcpy(out, rows.data, rows.num_bytes());
    };
    const absl::StatusOr<TensorView> pieces = backend_->LoadRows(MakeView(nullptr, dtype, 2100, 4098), read);
    ASSERT_TRUE(pieces.ok()) << pieces.status();
    EXPECT_EQ(next, 2100);
    EXPECT_LE(largest, size_t{16} << 20);
    ExpectOnDevice(*pieces, host.view());
  }
}

TEST_F(CudaWeightsTest, ColumnsOfAMatrixAndVectorsOfAnyType) {
  const TestTensor matrix = TestTensor(DType::kF16, 30, 64).Randomize(2);
  const TensorView columns = matrix.view().Columns(8, 21);
  const absl::StatusOr<TensorView> loaded = backend_->LoadWeight(columns);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  ExpectOnDevice(*loaded, columns);
  const TestTensor halves = TestTensor(DType::kF16, 1, 515).Randomize(3);
  const TensorView vector = halves.vector();
  const absl::StatusOr<TensorView> bias = backend_->LoadWeight(vector);
  ASSERT_TRUE(bias.ok()) << bias.status();
  EXPECT_EQ(bias->dtype, DType::kF32);
  ExpectOnDevice(*bias, vector);
}

TEST_F(CudaWeightsTest, WhatHalvesCannotHoldIsNamedByItsRow) {
  TestTensor matrix(DType::kF32, 3000, 4096);
  matrix.Set(2999 * 4096 + 7, 1e6f);
  const absl::Status status = backend_->LoadWeight(matrix.view()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("row 2999 has 1000000"), std::string_view::npos) << status;
}

}  // namespace
}  // namespace optserve
