#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <memory>

#include "kernels/common/check.h"

namespace optserve {

// A zeroed array of numbers in large pages where the kernel has them, as its page cache keeps the files of real models:
// in pages of 4 KiB reading is a fifth slower.
template <typename T>
class LargePages {
 public:
  LargePages() = default;
  explicit LargePages(int64_t size) : size_(size) {
    const size_t bytes = static_cast<size_t>(size) * sizeof(T);
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    OPTSERVE_CHECK(memory != MAP_FAILED) << "no " << bytes << " bytes of memory for the benchmark";
    madvise(memory, bytes, MADV_HUGEPAGE);
    memory_ = std::unique_ptr<T, Unmap>(static_cast<T*>(memory), Unmap{bytes});
  }

  T* data() const { return memory_.get(); }
  int64_t size() const { return size_; }
  T* begin() const { return data(); }
  T* end() const { return data() + size_; }

 private:
  struct Unmap {
    size_t bytes = 0;
    void operator()(T* memory) const { munmap(memory, bytes); }
  };
  int64_t size_ = 0;
  std::unique_ptr<T, Unmap> memory_;
};

}  // namespace optserve
