#pragma once

#include <chrono>
#include <thread>

namespace optserve {

// How long to sleep between two questions: not at all for some tens of microseconds, in which ranks that do the same
// work come together; later longer and longer, so that an idle group takes no processor.
class Patience {
 public:
  void Rest() {
    ++num_rests_;
    if (num_rests_ < 64) return;
    if (num_rests_ < 512) return std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::microseconds(num_rests_ < 4096 ? 50 : 1000));
  }

 private:
  int num_rests_ = 0;
};

}  // namespace optserve
