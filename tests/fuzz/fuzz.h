#pragma once

#include <fmt/format.h>
#include <sanitizer/asan_interface.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "engine/util/model_directory.h"

// What the fuzz targets share. A target is a file with LLVMFuzzerTestOneInput: it parses its input as the product does
// and checks what must hold of the result, whatever the input was.

namespace optserve::fuzz {

// Ends the run, as a crash does, unless `holds`: libFuzzer then keeps the input.
#define FUZZ_CHECK(holds)                                                                           \
  do {                                                                                              \
    if (!(holds)) {                                                                                 \
      std::fputs(fmt::format("{}:{}: not true: {}\n", __FILE__, __LINE__, #holds).c_str(), stderr); \
      std::abort();                                                                                 \
    }                                                                                               \
  } while (false)

inline std::string Message(const absl::Status& status) { return std::string(status.message()); }

inline std::string_view Text(const uint8_t* data, size_t size) { return {reinterpret_cast<const char*>(data), size}; }

// The input up to the next byte `separator`, which is taken too: targets that parse several files cut their input so.
inline std::string_view TakePart(std::string_view& input, char separator = '\0') {
  const std::string_view part = input.substr(0, input.find(separator));
  input.remove_prefix(std::min(part.size() + 1, input.size()));
  return part;
}

// Bytes as a mapped file, of which AddressSanitizer knows the end: what lies behind it on the last page is poisoned.
class InputFile {
 public:
  InputFile(std::string name, std::string_view bytes) : file_(std::move(name), Map(bytes)) {}
  ~InputFile() { __asan_unpoison_memory_region(file_.bytes().data(), PagesOf(file_.bytes().size())); }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  const MappedFile& get() const { return file_; }

  // Whether [data, data + size) lies in the file.
  bool Holds(const void* data, size_t size) const {
    const auto* begin = static_cast<const std::byte*>(data);
    const std::span<const std::byte> bytes = file_.bytes();
    return begin >= bytes.data() && size <= bytes.size() &&
           static_cast<size_t>(begin - bytes.data()) <= bytes.size() - size;
  }

 private:
  static size_t PagesOf(size_t size) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    return (size + page - 1) / page * page;
  }

  static std::span<const std::byte> Map(std::string_view bytes) {
    if (bytes.empty()) return {};
    const size_t size = PagesOf(bytes.size());
    void* pages = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) std::abort();
    std::memcpy(pages, bytes.data(), bytes.size());
    __asan_poison_memory_region(static_cast<std::byte*>(pages) + bytes.size(), size - bytes.size());
    return {static_cast<const std::byte*>(pages), bytes.size()};
  }

  MappedFile file_;
};

// A folder of this process, in memory where the system has such a place.
inline const std::filesystem::path& ScratchFolder() {
  static const std::filesystem::path folder = [] {
    const char* parent = std::filesystem::is_directory("/dev/shm") ? "/dev/shm" : "/tmp";
    std::filesystem::path made = fmt::format("{}/optserve-fuzz-{}", parent, getpid());
    std::filesystem::create_directories(made);
    std::atexit([] {
      std::error_code ignored;
      std::filesystem::remove_all(ScratchFolder(), ignored);
    });
    return made;
  }();
  return folder;
}

inline void WriteFile(const std::filesystem::path& file, std::string_view bytes) {
  std::ofstream(file, std::ios::binary | std::ios::trunc)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

}  // namespace optserve::fuzz
