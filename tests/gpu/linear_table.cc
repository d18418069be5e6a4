// Prints kernels/linear/linear_table.inc anew: for each shape of OPT, up to how many rows our kernel on the ordinary
// cores is the fastest, and up to how many from there on ours on the tensor cores is faster than the library's.
//
// With a text such as "NVIDIA H200, 2026-11-29": measured on GPU 0, the lines of its generation, with that text as
// their source. With --modelled: all generations, without a GPU. With --smoke: one tiny shape, once, to see that the
// program is right, on an emulated GPU too.
//
// A line is taken from the measurements by one rule: a kernel has all rows up to the first count at which one of those
// after it is faster.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/common/cuda_context.h"
#include "kernels/linear/linear.h"
#include "kernels/linear/linear_plan.h"
#include "kernels/linear/linear_table.h"

namespace optserve {
namespace {

struct Product {
  int64_t parts, columns, depth;  // each part has so many columns
};

// The products of a layer: of each size of OPT on one GPU, and of the sizes that need more, on as many as they need.
std::vector<Product> Products() {
  struct Model {
    int64_t hidden, ffn, ranks;
  };
  constexpr Model kModels[] = {{768, 3072, 1},   {1024, 4096, 1},  {2048, 8192, 1},
                               {2560, 10240, 1}, {4096, 16384, 1}, {5120, 20480, 1},
                               {7168, 28672, 1}, {9216, 36864, 8}, {12288, 49152, 16}};
  std::vector<Product> products;
  for (const Model& m : kModels) {
    products.push_back({3, m.hidden / m.ranks, m.hidden});
    products.push_back({1, m.hidden, m.hidden / m.ranks});
    products.push_back({1, m.ffn / m.ranks, m.hidden});
    products.push_back({1, m.hidden, m.ffn / m.ranks});
  }
  return products;
}

constexpr int64_t kRows[] = {2, 3, 4, 6, 8, 10, 12, 14, 16, 24, 32, 48, 64};
static_assert(kRows[std::size(kRows) - 1] == kMaxWmmaRows);

// Seconds of the three ways for a number of rows; 0 for one that cannot have as many.
struct Times {
  double skinny = 0, wmma = 0, cublas = 0;
};

struct MaxRows {
  int64_t skinny = 1, wmma = 1;
};
MaxRows MaxRowsOf(const std::function<Times(int64_t rows)>& times_of) {
  MaxRows most;
  bool skinny = true;
  for (const int64_t rows : kRows) {
    const Times times = times_of(rows);
    skinny = skinny && rows <= kMaxSkinnyRows && times.skinny <= std::min(times.wmma, times.cublas);
    if (skinny) {
      most.skinny = rows;
    } else if (times.wmma > times.cublas) {
      break;
    }
    most.wmma = rows;
  }
  return most;
}

void PrintLine(int sm_version, const Product& p, const MaxRows& rows, const std::string& source) {
  std::printf("{%d, %lld, %lld, %lld, %lld, %s},\n", sm_version, static_cast<long long>(p.parts * p.columns),
              static_cast<long long>(p.depth), static_cast<long long>(rows.skinny), static_cast<long long>(rows.wmma),
              source.c_str());
}

// ---------------------------------------------------------------- modelled

struct Generation {
  int sm_version;
  double bytes_per_second, flops;          // of memory; f32 FMA outside the tensor cores
  double l2_per_second;                    // bytes: 2048 a clock on a V100, 5120 on an A100 and taken for the H200's
  double shared_per_second, tensor_flops;  // bytes: 128 a clock and multiprocessor
};
// V100-SXM3-32GB, A100-SXM4-80GB, H200: from their data sheets and NVIDIA's papers on their architectures.
constexpr Generation kGenerations[] = {{70, 0.98e12, 15.7e12, 3.1e12, 15.7e12, 125e12},
                                       {80, 2.04e12, 19.5e12, 7.2e12, 19.5e12, 312e12},
                                       {90, 4.8e12, 67e12, 9.0e12, 29.6e12, 989e12}};

// Weights are read once whoever multiplies; a launch costs its latency. The library reads at some 75 % of the bandwidth
// where ours reach 90 %, in a launch for each part and one for its epilogue.
//
// Our kernel for the ordinary cores does its products at some 60 % of their peak beside the widening of weights. That
// for the tensor cores reads the rows of x from the L2 cache once for 32 columns. Through shared memory go, for 2 KiB
// of weights: these, once in and once out, and of each tile of 8 rows half a KiB in and, as four groups of lanes want
// the same, two out. It has some 70 % of each peak.
Times Model(const Generation& gpu, const Product& p, int64_t rows) {
  constexpr double kLaunch = 2.5e-6;
  const double weights = static_cast<double>(p.parts * p.columns * p.depth), bytes = 2 * weights;
  const double read = bytes / gpu.bytes_per_second;
  const auto products = [&](int64_t of_rows) { return 2 * weights * static_cast<double>(of_rows); };
  const int64_t tile = PlanLinearAs(LinearKernel::kWmma, rows, p.columns, p.depth, DeviceInfo{}).tile_rows;
  const double from_l2 = bytes * (1.0 + static_cast<double>(rows) / 32) / gpu.l2_per_second;
  const double shared = bytes * (2.0 + static_cast<double>(tile) / 8 * 1.25) / gpu.shared_per_second;
  return {.skinny = kLaunch + std::max(read / 0.9, products(rows) / gpu.flops / 0.6),
          .wmma = kLaunch + std::max(read / 0.9, std::max({from_l2, shared, products(tile) / gpu.tensor_flops}) / 0.7),
          .cublas = static_cast<double>(p.parts) * 2 * kLaunch + read / 0.75};
}

void PrintModelled() {
  for (const Generation& gpu : kGenerations) {
    for (const Product& p : Products()) {
      PrintLine(gpu.sm_version, p, MaxRowsOf([&](int64_t rows) { return Model(gpu, p, rows); }), "kModelled");
    }
  }
}

// ---------------------------------------------------------------- measured

class Measurement {
 public:
  Measurement(CudaDevice& device, bool smoke) : device_(device), smoke_(smoke) {
    ctx_.device = &device;
    ctx_.info = device.info();
    ctx_.stream = device.stream();
    ctx_.workspace_bytes = size_t{1} << 20;
    ctx_.workspace = Take(ctx_.workspace_bytes);
    pool_bytes_ = smoke ? size_t{1} << 20 : size_t{2} << 30;
    pool_ = Take(pool_bytes_);
    activations_ = Take(size_t{16} << 20);
  }
  ~Measurement() {
    for (void* memory : taken_) device_.Free(memory);
  }
  Measurement(const Measurement&) = delete;

  Times Run(const Product& p, int64_t rows) {
    const auto time = [&](LinearKernel kernel) {
      const LinearPlan plan = PlanLinearAs(kernel, rows, p.parts * p.columns, p.depth, ctx_.info);
      return Time([&] { Call(p, rows, plan); });
    };
    return {.skinny = rows <= kMaxSkinnyRows ? time(LinearKernel::kSkinny) : 0.0,
            .wmma = time(LinearKernel::kWmma),
            .cublas = time(LinearKernel::kLibrary)};
  }

 private:
  std::byte* Take(size_t bytes) {
    taken_.push_back(device_.Allocate(bytes));
    if (taken_.back() == nullptr) Fail("no memory for " + std::to_string(bytes) + " bytes");
    return static_cast<std::byte*>(taken_.back());
  }
  [[noreturn]] static void Fail(const std::string& why) {
    std::fprintf(stderr, "gpu_linear_table: %s\n", why.c_str());
    std::exit(1);
  }
  void Check() {
    if (const std::string error = device_.Synchronize(); !error.empty()) Fail(error);
  }

  // Other weights at each call, which no cache holds.
  std::byte* NextWeight(size_t bytes) {
    bytes = (bytes + 255) / 256 * 256;
    if (next_ + bytes > pool_bytes_) next_ = 0;
    std::byte* at = pool_ + next_;
    next_ += bytes;
    return at;
  }

  void Call(const Product& p, int64_t rows, const LinearPlan& plan) {
    const int64_t columns = p.parts * p.columns;
    std::byte* at = activations_ + rows * p.depth * 2;
    const TensorView out = MakeView(at, DType::kF16, rows, columns);
    const TensorView bias = MakeView(at + rows * columns * 2, DType::kF32, p.columns);
    LinearParams params{.x = MakeView(activations_, DType::kF16, rows, p.depth),
                        .num_parts = static_cast<int>(p.parts)};
    for (int64_t i = 0; i < p.parts; ++i) {
      params.parts[static_cast<size_t>(i)] = {
          .weight = MakeView(NextWeight(static_cast<size_t>(p.columns * p.depth) * 2), DType::kF16, p.columns, p.depth),
          .bias = bias,
          .out = out.Columns(i * p.columns, p.columns)};
    }
    cuda::LinearAs(ctx_, params, &plan);
  }

  // The least of five: what others do to the machine only adds.
  double Time(const std::function<void()>& call) {
    call();
    Check();
    if (smoke_) return 1.0;
    double best = 1.0;
    for (int round = 0; round < 5; ++round) {
      constexpr int kCalls = 200;
      const auto begin = std::chrono::steady_clock::now();
      for (int i = 0; i < kCalls; ++i) call();
      Check();
      best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / kCalls);
    }
    return best;
  }

  CudaDevice& device_;
  const bool smoke_;
  CudaContext ctx_;
  std::vector<void*> taken_;
  std::byte *pool_ = nullptr, *activations_ = nullptr;
  size_t pool_bytes_ = 0, next_ = 0;
};

int Run(const char* argument) {
  if (std::string_view(argument) == "--modelled") return PrintModelled(), 0;
  const bool smoke = std::string_view(argument) == "--smoke";
  OpenedCudaDevice opened = OpenCudaDevice(0);
  if (opened.device == nullptr) {
    std::fprintf(stderr, "gpu_linear_table: %s\n", opened.error.c_str());
    return 3;
  }
  // A line stands for its generation and those up to the next: 86 and 89 are 80's, 75 is 70's.
  int generation = 70;
  for (const Generation& gpu : kGenerations) {
    if (gpu.sm_version <= opened.device->info().sm_version) generation = gpu.sm_version;
  }
  Measurement measurement(*opened.device, smoke);
  std::string quoted(1, '"');
  quoted.append(argument).push_back('"');
  const std::vector<Product> products = smoke ? std::vector<Product>{{3, 16, 32}, {1, 24, 16}} : Products();
  for (const Product& p : products) {
    const MaxRows rows = MaxRowsOf([&](int64_t count) { return measurement.Run(p, count); });
    PrintLine(generation, p, rows, quoted);
  }
  return 0;
}

}  // namespace
}  // namespace optserve

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: gpu_linear_table \"GPU, date\" | --modelled | --smoke\n");
    return 2;
  }
  return optserve::Run(argv[1]);
}
