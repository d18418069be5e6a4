// Measures the kernels on GPU 0 at the shapes of OPT, whole models and one of 16 ranks of 175B: a JSON object a line.
//
//   gpu_bench            on a GPU
//   gpu_bench --smoke    one tiny shape, once: that the program is right, on an emulated GPU too
//   gpu_bench --check    only names the GPU; ends with 3 if there is none that can be used, and says why
//
// Times are of many launches in a row, divided, after a warm-up; weights and caches are taken in turn from a pool that
// no L2 cache holds. Ratios are of two roofs measured in the same run (tests/gpu/measure.h): reading, and the library's
// product of large matrices.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/linear/linear_plan.h"
#include "tests/gpu/measure.h"

namespace optserve {
namespace {

struct Shape {
  const char* name;
  int64_t hidden, heads, head_size, ffn;  // of one rank: heads and ffn are its part
};
constexpr Shape kShapes[] = {
    {"125m", 768, 12, 64, 3072},         {"1.3b", 2048, 32, 64, 8192},  {"6.7b", 4096, 32, 128, 16384},
    {"13b", 5120, 40, 128, 20480},       {"30b", 7168, 56, 128, 28672}, {"66b_of_8", 9216, 9, 128, 4608},
    {"175b_of_16", 12288, 6, 128, 3072},
};
constexpr Shape kSmokeShapes[] = {{"smoke", 64, 2, 32, 128}};

class Bench {
 public:
  Bench(Backend& backend, bool smoke) : backend_(backend), smoke_(smoke), roofs_(MeasureRoofs(backend, smoke)) {
    pool_bytes_ = smoke ? int64_t{4} << 20 : int64_t{2} << 30;
    const auto take = [&](int64_t bytes) {
      buffers_.push_back(Take(backend, bytes));
      return static_cast<std::byte*>(buffers_.back()->data());
    };
    pool_ = take(pool_bytes_);
    activations_ = take(smoke ? int64_t{1} << 20 : int64_t{512} << 20);
    integers_ = take(int64_t{1} << 20);
  }

  void Run() {
    Print(roofs_);
    for (const Shape& shape : smoke_ ? std::span<const Shape>(kSmokeShapes) : std::span<const Shape>(kShapes)) {
      for (const int64_t rows : {1, 8, 16, 32, 64}) Products(shape, rows);
      Products(shape, smoke_ ? kMaxWmmaRows + 1 : 2048);
      for (const int64_t batch : {1, 8, 32, 128}) Decode(shape, smoke_ ? std::min<int64_t>(batch, 2) : batch);
      for (const int64_t tokens : {512, 2048}) Prefill(shape, smoke_ ? 20 : tokens);
    }
  }

 private:
  // `bytes` of the pool, other ones at each call.
  std::byte* Next(int64_t bytes) {
    bytes = (bytes + 255) / 256 * 256;
    if (next_ + bytes > pool_bytes_) next_ = 0;
    std::byte* at = pool_ + next_;
    next_ += bytes;
    return at;
  }

  double Time(const std::function<void()>& call) { return SecondsOf(backend_, smoke_ ? 0 : 0.1, call); }

  void PrintRead(const std::string& name, double seconds, double bytes) {
    Print({.name = name,
           .seconds = seconds,
           .achieved = bytes / seconds / 1e9,
           .unit = "GB/s",
           .ratio = bytes / seconds / roofs_.read_bytes_per_second,
           .of = "read bandwidth"});
  }
  void PrintProduct(const std::string& name, double seconds, double flops) {
    Print({.name = name,
           .seconds = seconds,
           .achieved = flops / seconds / 1e12,
           .unit = "TFLOP/s",
           .ratio = flops / seconds / roofs_.flops,
           .of = "GEMM peak"});
  }

  TensorView Ints(int64_t at, const std::vector<int32_t>& values) {
    const TensorView view = MakeView(integers_ + at * 4, DType::kI32, static_cast<int64_t>(values.size()));
    backend_.CopyIn(view, values.data());
    return view;
  }

  // The four products of a layer.
  void Products(const Shape& s, int64_t rows) {
    const int64_t width = s.heads * s.head_size;
    const struct {
      const char* name;
      int64_t parts, columns, depth;
    } products[] = {{"qkv", 3, width, s.hidden},
                    {"out", 1, s.hidden, width},
                    {"fc1", 1, s.ffn, s.hidden},
                    {"fc2", 1, s.hidden, s.ffn}};
    for (const auto& p : products) {
      const auto call = [&] {
        LinearParams params{.x = MakeView(activations_, DType::kF16, rows, p.depth),
                            .num_parts = static_cast<int>(p.parts)};
        const TensorView out = MakeView(activations_ + rows * p.depth * 2, DType::kF16, rows, p.parts * p.columns);
        for (int64_t i = 0; i < p.parts; ++i) {
          params.parts[static_cast<size_t>(i)] = {
              .weight = MakeView(Next(p.columns * p.depth * 2), DType::kF16, p.columns, p.depth),
              .out = out.Columns(i * p.columns, p.columns)};
        }
        backend_.Linear(params);
      };
      const std::string name = std::string(s.name) + " " + p.name + " " + std::to_string(rows) + " rows";
      const double weights = static_cast<double>(p.parts * p.columns * p.depth);
      const double seconds = Time(call);
      if (rows <= kMaxWmmaRows) {
        PrintRead(name, seconds, weights * 2);
      } else {
        PrintProduct(name, seconds, weights * 2 * static_cast<double>(rows));
      }
    }
  }

  PagedAttentionParams Attention(const Shape& s, int64_t sequences, int64_t queries, int64_t context) {
    constexpr int64_t kBlock = 16;
    const int64_t blocks = (context + kBlock - 1) / kBlock,
                  bytes = sequences * blocks * s.heads * kBlock * s.head_size * 2;
    std::vector<int32_t> tables, starts, lens;
    for (int32_t i = 0; i < sequences * blocks; ++i) tables.push_back(i);
    for (int32_t i = 0; i <= sequences; ++i) starts.push_back(i * static_cast<int32_t>(queries));
    lens.assign(static_cast<size_t>(sequences), static_cast<int32_t>(context));
    TensorView table = Ints(0, tables);
    table = MakeView(table.data, DType::kI32, sequences, blocks);
    const auto end = static_cast<int64_t>(tables.size());
    return {.out = MakeView(activations_, DType::kF16, sequences * queries, s.heads, s.head_size),
            .q = MakeView(activations_, DType::kF16, sequences * queries, s.heads, s.head_size),
            .k_cache = MakeView(Next(bytes), DType::kF16, sequences * blocks, s.heads, kBlock, s.head_size),
            .v_cache = MakeView(Next(bytes), DType::kF16, sequences * blocks, s.heads, kBlock, s.head_size),
            .block_tables = table,
            .query_starts = Ints(end, starts),
            .context_lens = Ints(end + static_cast<int64_t>(starts.size()), lens),
            .max_context_len = static_cast<int32_t>(context),
            .scale = 1.0f / std::sqrt(static_cast<float>(s.head_size))};
  }

  void Decode(const Shape& s, int64_t batch) {
    const int64_t context = smoke_ ? 40 : 1024;
    const int64_t bytes = 2 * batch * context * s.heads * s.head_size * 2;
    const std::string name = std::string(s.name) + " decode attention, batch " + std::to_string(batch);
    if (bytes > pool_bytes_) return PrintMissing(name, "its cache is larger than the pool of the benchmark");
    const PagedAttentionParams params = Attention(s, batch, 1, context);
    PrintRead(name, Time([&] { backend_.PagedDecode(params); }), static_cast<double>(bytes));
  }

  void Prefill(const Shape& s, int64_t tokens) {
    const PagedAttentionParams params = Attention(s, 1, tokens, tokens);
    const double seconds = Time([&] { backend_.PagedPrefill(params); });
    const double pairs = static_cast<double>(tokens) * static_cast<double>(tokens + 1) / 2;
    PrintProduct(std::string(s.name) + " prefill attention, " + std::to_string(tokens) + " tokens", seconds,
                 4 * pairs * static_cast<double>(s.heads * s.head_size));
  }

  Backend& backend_;
  const bool smoke_;
  const Roofs roofs_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::byte *pool_ = nullptr, *activations_ = nullptr, *integers_ = nullptr;
  int64_t pool_bytes_ = 0, next_ = 0;
};

}  // namespace
}  // namespace optserve

int main(int argc, char** argv) {
  const optserve::Options options(argc, argv, {"smoke!", "check!"});
  const auto backend = optserve::OpenGpu();
  if (options.Has("check")) return std::puts(backend->info().name.c_str()) < 0 ? 1 : 0;
  optserve::Bench(*backend, options.Has("smoke")).Run();
  return 0;
}
