// Prints kernels/linear/linear_table.inc anew: for each shape of OPT, up to how many rows our own kernel is faster than
// the library's.
//
// With a text such as "NVIDIA H200, 2026-11-29": measured on GPU 0, the lines of its generation, with that text as
// their source. With --modelled: all generations, without a GPU. With --smoke: one tiny shape, once, to see that the
// program is right, on an emulated GPU too.
//
// A line is taken from the measurements by one rule: our kernel has all rows up to the first count at which it is
// slower.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
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

constexpr int64_t kRows[] = {2, 3, 4, 6, 8, 10, 12, 14, 16};

// Seconds of both ways for a number of rows.
struct Times {
  double skinny = 0, gemm = 0;
};

int64_t MaxSkinnyRows(const std::function<Times(int64_t rows)>& times_of) {
  int64_t most = 1;
  for (const int64_t rows : kRows) {
    const Times times = times_of(rows);
    if (times.skinny > times.gemm) break;
    most = rows;
  }
  return most;
}

void PrintLine(int sm_version, const Product& p, int64_t rows, const std::string& source) {
  std::printf("{%d, %lld, %lld, %lld, %s},\n", sm_version, static_cast<long long>(p.parts * p.columns),
              static_cast<long long>(p.depth), static_cast<long long>(rows), source.c_str());
}

// ---------------------------------------------------------------- modelled

struct Generation {
  int sm_version;
  double bytes_per_second, flops;  // of memory; f32 FMA outside the tensor cores
};
// V100-SXM3-32GB, A100-SXM4-80GB, H200: from their data sheets.
constexpr Generation kGenerations[] = {{70, 0.98e12, 15.7e12}, {80, 2.04e12, 19.5e12}, {90, 4.8e12, 67e12}};

// Weights are read once either way; a launch costs its latency. Our kernel does the products on the ordinary cores, at
// some 60 % of their peak beside the widening of weights; the library reads at some 75 % of the bandwidth where ours
// reaches 90 %, in a launch for each part and one for its epilogue.
Times Model(const Generation& gpu, const Product& p, int64_t rows) {
  constexpr double kLaunch = 2.5e-6;
  const double weights = static_cast<double>(p.parts * p.columns * p.depth);
  const double read = weights * 2 / gpu.bytes_per_second;
  const double products = 2 * weights * static_cast<double>(rows) / gpu.flops;
  return {.skinny = kLaunch + std::max(read / 0.9, products / 0.6),
          .gemm = static_cast<double>(p.parts) * 2 * kLaunch + read / 0.75};
}

void PrintModelled() {
  for (const Generation& gpu : kGenerations) {
    for (const Product& p : Products()) {
      PrintLine(gpu.sm_version, p, MaxSkinnyRows([&](int64_t rows) { return Model(gpu, p, rows); }), "kModelled");
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
    DeviceInfo info = ctx_.info;
    LinearPlan skinny = PlanLinear(rows, p.parts * p.columns, p.depth, info), gemm = skinny;
    skinny.gemm = false;
    gemm.gemm = true;
    return {.skinny = Time([&] { Call(p, rows, skinny); }), .gemm = Time([&] { Call(p, rows, gemm); })};
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
    const int64_t rows = MaxSkinnyRows([&](int64_t count) { return measurement.Run(p, count); });
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
