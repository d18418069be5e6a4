// Each instruction that kernels/common/gpu.h wraps, on its own, against what the PTX manual says of it, written down
// here once more as loops over elements. The same test is what the emulation answers to and, on a GPU, what the machine
// answers to: where both pass, the emulation is the machine's for all that kernels use.

#include "tests/kernels/cuda/instruction_kernels.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "tests/kernels/cuda/cuda_test.h"

namespace optserve {
namespace {

constexpr int kLanes = 32;

// An array of the host and one of the device.
template <typename T>
class Array {
 public:
  Array(CudaDevice& device, std::vector<T> values) : device_(device), values_(std::move(values)) {
    data_ = static_cast<T*>(device.Allocate(values_.size() * sizeof(T)));
    if (data_ == nullptr) throw std::runtime_error("no memory on the device");
    device.CopyIn(data_, values_.data(), values_.size() * sizeof(T));
  }
  ~Array() { device_.Free(data_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  T* data() const { return data_; }
  // Waits for the device.
  const std::vector<T>& Download() {
    device_.CopyOut(values_.data(), data_, values_.size() * sizeof(T));
    EXPECT_EQ(device_.Synchronize(), "");
    return values_;
  }

 private:
  CudaDevice& device_;
  std::vector<T> values_;
  T* data_ = nullptr;
};

// Where an element of a matrix is: a register of a lane, and which half of it, if it holds two.
struct Place {
  int lane, reg, half;
};
using Layout = std::function<Place(int row, int column)>;

struct Matrix {
  int rows, columns;
  std::vector<float> values;
  float& at(int row, int column) { return values[static_cast<size_t>(row * columns + column)]; }
};

// Numbers that f16 holds: small integers, or any of seven bits and about 1.
Matrix RandomMatrix(int rows, int columns, bool integers, std::mt19937& random) {
  Matrix m{rows, columns, std::vector<float>(static_cast<size_t>(rows * columns))};
  for (float& x : m.values) {
    x = static_cast<float>(static_cast<int>(random() % 129) - 64);
    if (!integers) x *= 0x1p-6f;
  }
  return m;
}

uint32_t ToBits(float x) {  // exact for what RandomMatrix makes
  const _Float16 half = static_cast<_Float16>(x);
  uint16_t bits = 0;
  std::memcpy(&bits, &half, 2);
  return bits;
}

std::vector<uint32_t> PackHalves(Matrix m, const Layout& layout, int registers, std::vector<uint32_t> into = {}) {
  into.resize(static_cast<size_t>(kLanes * registers));
  for (int i = 0; i < m.rows; ++i) {
    for (int j = 0; j < m.columns; ++j) {
      const Place p = layout(i, j);
      into[static_cast<size_t>(p.lane * registers + p.reg)] |= ToBits(m.at(i, j)) << (16 * p.half);
    }
  }
  return into;
}

class CudaInstructionTest : public CudaTest {
 protected:
  // Whether an instruction that is there from `sm_version` on is there.
  bool Has(int sm_version) const { return !kOnGpu || ctx_.info.sm_version >= sm_version; }

  // One product of fragments against the sums, exact for integers; for others within what rounding of f32 sums in any
  // order gives. `parts` products lie side by side in the lanes.
  struct Mma {
    int m, n, k, parts;
    std::function<Layout(int part)> a, b, d;
    int a_registers, b_registers, d_registers;
    std::function<void(const uint32_t*, const uint32_t*, float*)> run;
  };
  void TryMma(const Mma& mma) {
    for (const bool integers : {true, false}) {
      std::mt19937 random(integers ? 1 : 2);
      std::vector<uint32_t> a, b;
      std::vector<float> d(static_cast<size_t>(kLanes * mma.d_registers)), expected(d.size());
      std::vector<int> owners(d.size());
      for (int part = 0; part < mma.parts; ++part) {
        Matrix x = RandomMatrix(mma.m, mma.k, integers, random), y = RandomMatrix(mma.k, mma.n, integers, random);
        a = PackHalves(x, mma.a(part), mma.a_registers, a);
        b = PackHalves(y, mma.b(part), mma.b_registers, b);
        for (int i = 0; i < mma.m; ++i) {
          for (int j = 0; j < mma.n; ++j) {
            const Place p = mma.d(part)(i, j);
            const auto at = static_cast<size_t>(p.lane * mma.d_registers + p.reg);
            double sum = d[at] = static_cast<float>(static_cast<int>(random() % 513) - 256);
            for (int k = 0; k < mma.k; ++k) sum += static_cast<double>(x.at(i, k)) * y.at(k, j);
            expected[at] = static_cast<float>(sum);
            ++owners[at];
          }
        }
      }
      for (const int count : owners) ASSERT_EQ(count, 1);  // the layout above names every register once
      Array<uint32_t> da(*device_, a), db(*device_, b);
      Array<float> dd(*device_, d);
      mma.run(da.data(), db.data(), dd.data());
      const std::vector<float>& got = dd.Download();
      for (size_t i = 0; i < got.size(); ++i) {
        if (integers) {
          ASSERT_EQ(got[i], expected[i]) << "register " << i;
        } else {
          ASSERT_NEAR(got[i], expected[i], 1e-4f * std::max(1.0f, std::abs(expected[i]))) << "register " << i;
        }
      }
    }
  }
};

// PTX manual, "Matrix Fragments for mma.m16n8k16 with floating point type".
TEST_F(CudaInstructionTest, MmaM16N8K16) {
  if (!Has(75)) GTEST_SKIP() << "from sm_75 on";  // a V100 has no such instruction; the emulator has
  TryMma({.m = 16,
          .n = 8,
          .k = 16,
          .parts = 1,
          .a = [](int) -> Layout {
            return [](int i, int k) { return Place{i % 8 * 4 + k % 8 / 2, i / 8 + k / 8 * 2, k % 2}; };
          },
          .b = [](int) -> Layout { return [](int k, int j) {
                                     return Place{j * 4 + k % 8 / 2, k / 8, k % 2};
                                   }; },
          .d = [](int) -> Layout {
            return [](int i, int j) { return Place{i % 8 * 4 + j / 2, j % 2 + i / 8 * 2, 0}; };
          },
          .a_registers = 4,
          .b_registers = 2,
          .d_registers = 4,
          .run = [&](const uint32_t* a, const uint32_t* b, float* d) { instructions::MmaM16N8K16(ctx_, a, b, d); }});
}

// The same, "for mma.m8n8k4 with .f16 floating point type": product q is that of lanes 4 q to 4 q + 3 and those 16
// above.
TEST_F(CudaInstructionTest, MmaM8N8K4) {
  for (const bool row_b : {false, true}) {
    SCOPED_TRACE(row_b ? "row.row" : "row.col");
    TryMma({.m = 8,
            .n = 8,
            .k = 4,
            .parts = 4,
            .a = [](int q) -> Layout {
              return [q](int i, int k) { return Place{q * 4 + i % 4 + i / 4 * 16, k / 2, k % 2}; };
            },
            .b = [row_b](int q) -> Layout {
              return [q, row_b](int k, int j) {
                return row_b ? Place{q * 4 + k + j / 4 * 16, j % 4 / 2, j % 2}
                             : Place{q * 4 + j % 4 + j / 4 * 16, k / 2, k % 2};
              };
            },
            .d = [](int q) -> Layout {
              return [q](int i, int j) {
                return Place{q * 4 + i % 2 + j / 2 % 2 * 2 + i / 4 * 16, j / 4 * 4 + i / 2 % 2 * 2 + j % 2, 0};
              };
            },
            .a_registers = 2,
            .b_registers = 2,
            .d_registers = 8,
            .run = [&](const uint32_t* a, const uint32_t* b,
                       float* d) { instructions::MmaM8N8K4(ctx_, row_b, a, b, d); }});
  }
}

// WMMA, 32 x 8 x 16: which lane has which element is nobody's affair, where elements lie in memory is. CUDA C++
// Programming Guide, "Warp Matrix Functions".
TEST_F(CudaInstructionTest, Wmma) {
  constexpr int kRows = 32, kColumns = 8, kDepth = instructions::kMatrixSteps * 16;
  constexpr int kAStride = 48, kBStride = 40, kCStride = 36;
  constexpr float kUntouched = -12345.0f;
  for (const bool integers : {true, false}) {
    std::mt19937 random(integers ? 4 : 5);
    Matrix a = RandomMatrix(kRows, kDepth, integers, random), b = RandomMatrix(kDepth, kColumns, integers, random);
    std::vector<F16> a_memory(kRows * kAStride, F16{0x7e00}), b_memory(kColumns * kBStride, F16{0x7e00});  // NaN
    for (int k = 0; k < kDepth; ++k) {
      for (int i = 0; i < kRows; ++i) {
        a_memory[static_cast<size_t>(i * kAStride + k)].bits = static_cast<uint16_t>(ToBits(a.at(i, k)));
      }
      for (int j = 0; j < kColumns; ++j) {
        b_memory[static_cast<size_t>(j * kBStride + k)].bits = static_cast<uint16_t>(ToBits(b.at(k, j)));
      }
    }
    Array<F16> device_a(*device_, a_memory), device_b(*device_, b_memory);
    Array<float> c(*device_, std::vector<float>(kColumns * kCStride, kUntouched));
    instructions::Wmma(ctx_, device_a.data(), kAStride, device_b.data(), kBStride, c.data(), kCStride);
    const std::vector<float>& got = c.Download();
    for (int j = 0; j < kColumns; ++j) {
      for (int i = 0; i < kCStride; ++i) {
        const float sum = got[static_cast<size_t>(j * kCStride + i)];
        double expected = i < kRows ? 0.0 : kUntouched;
        for (int k = 0; k < kDepth && i < kRows; ++k) expected += static_cast<double>(a.at(i, k)) * b.at(k, j);
        if (integers || i >= kRows) {
          ASSERT_EQ(sum, expected) << i << ", " << j;
        } else {
          ASSERT_NEAR(sum, expected, 1e-4 * std::max(1.0, std::abs(expected))) << i << ", " << j;
        }
      }
    }
  }
}

// PTX manual, "ldmatrix": rows of matrix j are named by lanes 8 j to 8 j + 7, in any order.
TEST_F(CudaInstructionTest, Ldmatrix) {
  if (!Has(75)) GTEST_SKIP() << "from sm_75 on";  // a V100 has no such instruction; the emulator has
  std::vector<uint16_t> rows(kLanes * 8);
  std::iota(rows.begin(), rows.end(), uint16_t{0x1000});
  std::vector<int32_t> order(kLanes);
  std::iota(order.begin(), order.end(), 0);
  std::mt19937 random(3);
  std::shuffle(order.begin(), order.end(), random);
  Array<uint16_t> device_rows(*device_, rows);
  Array<int32_t> device_order(*device_, order);
  for (const bool transposed : {false, true}) {
    SCOPED_TRACE(transposed ? "transposed" : "plain");
    Array<uint32_t> r(*device_, std::vector<uint32_t>(kLanes * 4));
    instructions::Ldmatrix(ctx_, transposed, device_rows.data(), device_order.data(), r.data());
    const std::vector<uint32_t>& got = r.Download();
    for (int matrix = 0; matrix < 4; ++matrix) {
      for (int i = 0; i < 8; ++i) {
        for (int j = 0; j < 8; ++j) {
          const uint16_t element = rows[static_cast<size_t>(order[static_cast<size_t>(matrix * 8 + i)] * 8 + j)];
          const int lane = transposed ? j * 4 + i / 2 : i * 4 + j / 2, half = transposed ? i % 2 : j % 2;
          EXPECT_EQ(got[static_cast<size_t>(lane * 4 + matrix)] >> (16 * half) & 0xffffu, element)
              << "matrix " << matrix << " row " << i << " column " << j;
        }
      }
    }
  }
}

TEST_F(CudaInstructionTest, CopyAsync) {
  constexpr int kPieces = instructions::kCopyGroups * instructions::kCopyPieces;
  std::vector<F16> from(kPieces * 8), nothing(kPieces * 8, F16{0x7bff});
  std::vector<int32_t> valid(kPieces);
  for (int piece = 0; piece < kPieces; ++piece) {
    valid[static_cast<size_t>(piece)] = piece % 5 != 2 ? 1 : 0;
    for (int i = 0; i < 8; ++i)
      from[static_cast<size_t>(piece * 8 + i)].bits = static_cast<uint16_t>(1 + piece * 8 + i);
  }
  Array<F16> device_from(*device_, from), to(*device_, nothing);
  Array<int32_t> device_valid(*device_, valid);
  instructions::CopyAsync(ctx_, device_from.data(), device_valid.data(), to.data());
  const std::vector<F16>& got = to.Download();
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i].bits, valid[i / 8] != 0 ? from[i].bits : 0) << "piece " << i / 8;
  }
}

TEST_F(CudaInstructionTest, EveryHalfWidens) {
  std::vector<F16> in(65536);
  for (size_t i = 0; i < in.size(); ++i) in[i].bits = static_cast<uint16_t>(i);
  Array<F16> device_in(*device_, in);
  Array<float> out(*device_, std::vector<float>(in.size()));
  instructions::ToFloats(ctx_, device_in.data(), out.data(), static_cast<int64_t>(in.size()));
  const std::vector<float>& got = out.Download();
  for (size_t i = 0; i < in.size(); ++i) {
    const bool negative = i >= 0x8000;
    const int exponent = static_cast<int>(i >> 10 & 31), fraction = static_cast<int>(i & 1023);
    if (exponent == 31 && fraction != 0) {
      ASSERT_TRUE(std::isnan(got[i])) << i;
      continue;
    }
    double value = exponent == 31  ? std::numeric_limits<double>::infinity()
                   : exponent == 0 ? std::ldexp(fraction, -24)
                                   : std::ldexp(1024 + fraction, exponent - 25);
    if (negative) value = -value;
    ASSERT_EQ(static_cast<double>(got[i]), value) << i;
    ASSERT_EQ(std::signbit(got[i]), negative) << i;
  }
}

// To nearest, ties to even: between neighbours of f16 just below, at and just above the middle; what is too large is
// infinite, from the middle between the largest and the next on; NaN stays NaN.
TEST_F(CudaInstructionTest, HalvesAreRoundedToNearestEven) {
  std::vector<float> in;
  std::vector<uint16_t> expected;
  for (uint16_t bits = 0; bits < 0x7c00; ++bits) {
    const double here = ToF32(F16{bits}), next = bits == 0x7bff ? 65536.0 : ToF32(F16{static_cast<uint16_t>(bits + 1)});
    const auto middle = static_cast<float>((here + next) / 2);
    const auto up = static_cast<uint16_t>(bits + 1);
    for (const auto& [x, rounded] :
         {std::pair(static_cast<float>(here), bits), std::pair(std::nextafter(middle, 0.0f), bits),
          std::pair(middle, bits % 2 == 0 ? bits : up), std::pair(std::nextafter(middle, 1e9f), up)}) {
      in.push_back(x), expected.push_back(rounded);
      in.push_back(-x), expected.push_back(static_cast<uint16_t>(rounded | 0x8000u));
    }
  }
  in.push_back(std::numeric_limits<float>::infinity()), expected.push_back(0x7c00);
  in.push_back(1e30f), expected.push_back(0x7c00);
  in.push_back(1e-30f), expected.push_back(0);
  Array<float> device_in(*device_, in);
  Array<F16> out(*device_, std::vector<F16>(in.size()));
  instructions::ToHalves(ctx_, device_in.data(), out.data(), static_cast<int64_t>(in.size()));
  const std::vector<F16>& got = out.Download();
  for (size_t i = 0; i < in.size(); ++i) ASSERT_EQ(got[i].bits, expected[i]) << in[i];

  Array<float> nan(*device_, {std::numeric_limits<float>::quiet_NaN()});
  Array<F16> half(*device_, std::vector<F16>(1));
  instructions::ToHalves(ctx_, nan.data(), half.data(), 1);
  EXPECT_TRUE(std::isnan(ToF32(half.Download()[0])));
}

// StoreRelease and LoadAcquire, in both directions: who sees the word sees what was written before it.
TEST_F(CudaInstructionTest, ReleaseAndAcquireWithTheHost) {
  constexpr int kRounds = 300;
  auto* words = static_cast<uint32_t*>(device_->AllocateHost(instructions::kWords * sizeof(uint32_t)));
  ASSERT_NE(words, nullptr);
  std::vector<uint32_t> answers;
  bool heard = true;
  std::thread host([&] {
    for (uint32_t round = 1; round <= kRounds && heard; ++round) {
      std::atomic_ref(words[instructions::kQuestion]).store(round * 7, std::memory_order_relaxed);
      std::atomic_ref(words[instructions::kRequest]).store(round, std::memory_order_release);
      const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      const std::atomic_ref reply(words[instructions::kReply]);
      while (reply.load(std::memory_order_acquire) != round && heard) {
        heard = std::chrono::steady_clock::now() < deadline;
        std::this_thread::yield();
      }
      answers.push_back(std::atomic_ref(words[instructions::kAnswer]).load(std::memory_order_relaxed));
    }
  });
  instructions::PingPong(ctx_, words, kRounds);
  host.join();
  EXPECT_EQ(device_->Synchronize(), "");
  EXPECT_TRUE(heard) << "after round " << answers.size();
  for (size_t i = 0; i < answers.size(); ++i) EXPECT_EQ(answers[i], (i + 1) * 14);
  device_->FreeHost(words);
}

}  // namespace
}  // namespace optserve
