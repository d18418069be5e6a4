#include <atomic>
#include <chrono>
#include <condition_variable>

#include "tests/cuda_emulator/scheduler.h"

// Words through which launches on several threads of the host, and the host, wait for each other.

namespace optserve::emulator {
namespace {

// How often a word that other threads of the host may wait for has been written, of all launches.
std::mutex words_mutex;
std::condition_variable words_written;
std::atomic<uint64_t> words_count = 0;

thread_local uint64_t words_seen = 0;  // before the last look at such a word
thread_local size_t idle_polls = 0;    // since anything was written

// Long enough to sleep, short enough for words that the host writes without a word to us.
constexpr auto kLongestSleep = std::chrono::milliseconds(1);

void SleepUntilWritten() {
  std::unique_lock lock(words_mutex);
  words_written.wait_for(lock, kLongestSleep, [] { return words_count.load() != words_seen; });
}

}  // namespace

void WordWritten() {
  {
    const std::lock_guard lock(words_mutex);
    ++words_count;
  }
  words_written.notify_all();
}

void LookAtWord() {
  const uint64_t now = words_count.load();
  if (now != words_seen) idle_polls = 0;
  words_seen = now;
}

// When all that could run look at words in vain, the thread of the host sleeps: yielding it instead takes a hundred
// times as long where processors are busy.
void WaitForWords(size_t threads_polling) {
  if (++idle_polls > 4 * threads_polling) SleepUntilWritten();
}

}  // namespace optserve::emulator
