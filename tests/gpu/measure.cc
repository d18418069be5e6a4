#include "tests/gpu/measure.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "kernels/common/cuda_device.h"
#include "tests/gpu/probe.h"

namespace optserve {
namespace {

std::string Quoted(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c == '\n' ? ' ' : c;
  }
  return quoted + "\"";
}

// Copies blocks of keys and values of 64 KiB from one half of the memory to the other. Seconds.
double CopySeconds(Backend& backend, std::byte* memory, int64_t bytes, bool smoke, double at_least) {
  const int64_t block = smoke ? 64 : 32768, blocks = bytes / 2 / (block * 2) / 2 * 2;
  std::vector<int32_t> src, dst;
  for (int32_t i = 0; i < blocks / 2; ++i) src.push_back(i), dst.push_back(i + static_cast<int32_t>(blocks / 2));
  const auto ids = Take(backend, blocks * 4);
  const TensorView all = MakeView(ids->data(), DType::kI32, blocks);
  const TensorView from = all.Rows(0, blocks / 2), to = all.Rows(blocks / 2, blocks / 2);
  backend.CopyIn(from, src.data());
  backend.CopyIn(to, dst.data());
  const CopyBlocksParams copy{.k_cache = MakeView(memory, DType::kF16, blocks, 1, 1, block),
                              .v_cache = MakeView(memory + bytes / 2, DType::kF16, blocks, 1, 1, block),
                              .src = from,
                              .dst = to};
  return SecondsOf(backend, at_least, [&] { backend.CopyBlocks(copy); });
}

}  // namespace

void ExitOnError(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  std::exit(1);
}

std::unique_ptr<Buffer> Take(Backend& backend, int64_t bytes) {
  auto buffer = backend.Allocate(static_cast<size_t>(bytes));
  ExitOnError(buffer.status());
  return *std::move(buffer);
}

double SecondsOf(Backend& backend, double at_least, const std::function<void()>& call) {
  call();
  ExitOnError(backend.Synchronize());
  for (int count = 1;; count *= 4) {
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < count; ++i) call();
    ExitOnError(backend.Synchronize());
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (seconds >= at_least) return seconds / count;
  }
}

Roofs MeasureRoofs(Backend& backend, bool smoke) {
  const double at_least = smoke ? 0 : 0.2;
  const int64_t bytes = smoke ? int64_t{1} << 20 : int64_t{2} << 30;
  const auto memory = Take(backend, bytes), sink = Take(backend, 128);
  auto* const at = static_cast<std::byte*>(memory->data());
  void* const stream = backend.cuda_device()->stream();
  probe::FillRandom(stream, reinterpret_cast<F16*>(at), bytes / 2, 1);
  Roofs roofs;
  // As many blocks as an SM holds of 256 threads, and twice as many: the better of the two.
  for (const int blocks_per_sm : {8, 16}) {
    const double seconds = SecondsOf(backend, at_least, [&] {
      probe::ReadAll(stream, at, bytes, blocks_per_sm * backend.info().sm_count, static_cast<uint32_t*>(sink->data()));
    });
    roofs.read_bytes_per_second = std::max(roofs.read_bytes_per_second, static_cast<double>(bytes) / seconds);
  }
  roofs.copy_bytes_per_second = static_cast<double>(bytes) / CopySeconds(backend, at, bytes, smoke, at_least);
  const int64_t n = smoke ? 32 : 8192;
  const GemmCall gemm{.x = reinterpret_cast<const F16*>(at),
                      .x_stride = n,
                      .weight = reinterpret_cast<const F16*>(at + n * n * 2),
                      .weight_stride = n,
                      .out = at + n * n * 4,
                      .out_stride = n,
                      .out_is_half = true,
                      .rows = n,
                      .columns = n,
                      .depth = n};
  const double size = static_cast<double>(n);
  roofs.flops = 2 * size * size * size / SecondsOf(backend, at_least, [&] { backend.cuda_device()->Gemm(gemm); });
  return roofs;
}

void Print(const Figure& f) {
  std::printf("{\"name\": %s, \"us\": %.3f, \"achieved\": %.3f, \"unit\": %s", Quoted(f.name).c_str(), f.seconds * 1e6,
              f.achieved, Quoted(f.unit).c_str());
  if (f.ratio > 0) std::printf(", \"ratio\": %.4f, \"of\": %s", f.ratio, Quoted(f.of).c_str());
  std::printf("}\n");
  std::fflush(stdout);
}

void PrintMissing(const std::string& name, const std::string& why) {
  std::printf("{\"name\": %s, \"missing\": %s}\n", Quoted(name).c_str(), Quoted(why).c_str());
  std::fflush(stdout);
}

void Print(const Roofs& roofs) {
  Print({.name = "roof: read", .achieved = roofs.read_bytes_per_second / 1e9, .unit = "GB/s"});
  Print({.name = "roof: copy", .achieved = roofs.copy_bytes_per_second / 1e9, .unit = "GB/s"});
  Print({.name = "roof: gemm", .achieved = roofs.flops / 1e12, .unit = "TFLOP/s"});
}

std::vector<std::string> SplitList(const std::string& text) {
  std::vector<std::string> items;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    items.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return items;
}

Options::Options(int argc, char** argv, std::vector<std::string> known) {
  const auto refuse = [&](const std::string& what) {
    std::string list;
    for (const std::string& name : known) list += " --" + (name.back() == '!' ? name.substr(0, name.size() - 1) : name);
    std::fprintf(stderr, "%s; there are:%s\n", what.c_str(), list.c_str());
    std::exit(2);
  };
  for (int i = 1; i < argc; ++i) {
    const std::string text = argv[i], name = text.substr(0, 2) == "--" ? text.substr(2) : "";
    const bool is_flag = std::find(known.begin(), known.end(), name + "!") != known.end();
    if (!is_flag && std::find(known.begin(), known.end(), name) == known.end()) refuse("no option is called " + text);
    if (!is_flag && i + 1 == argc) refuse(text + " needs a value");
    given_.emplace_back(name, is_flag ? "" : argv[++i]);
  }
}

bool Options::Has(const std::string& name) const {
  return std::any_of(given_.begin(), given_.end(), [&](const auto& option) { return option.first == name; });
}

std::string Options::Get(const std::string& name, const std::string& otherwise) const {
  for (const auto& [given, value] : given_) {
    if (given == name) return value;
  }
  return otherwise;
}

std::unique_ptr<Backend> OpenGpu() {
  auto backend = MakeBackend({.kind = DeviceKind::kCuda});
  if (backend.ok()) return *std::move(backend);
  std::fprintf(stderr, "%s\n", std::string(backend.status().message()).c_str());
  std::exit(3);
}

}  // namespace optserve
