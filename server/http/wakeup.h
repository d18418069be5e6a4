#pragma once

#include <boost/asio/async_result.hpp>
#include <memory>
#include <utility>

#include "server/http/asio.h"

namespace optserve {

// What a coroutine waits for: any of several things, in one expression and without one coroutine, timer or cancellation
// for each. Whoever sees something happen sets its bit; `co_await Next()` returns all bits set since the last time.
//
// One waiter. Threads: the coroutine's alone. Set() may resume the coroutine before it returns, so it is the last thing
// that its caller does with anything the coroutine owns.
class Wakeup {
  struct Waiter {
    virtual ~Waiter() = default;
    virtual void Resume() = 0;
  };
  template <typename Handler>
  struct WaiterOf : Waiter {
    explicit WaiterOf(Handler&& handler_in) : handler(std::move(handler_in)) {}
    void Resume() override { std::move(handler)(); }
    Handler handler;
  };

  auto Suspend() {
    return asio::async_initiate<const UseAwaitable, void()>(
        [this]<typename Handler>(Handler handler) {
          waiter_ = std::make_unique<WaiterOf<Handler>>(std::move(handler));
        },
        UseAwaitable{});
  }

 public:
  void Set(unsigned bits) {
    bits_ |= bits;
    if (waiter_ != nullptr) std::exchange(waiter_, nullptr)->Resume();
  }

  void Clear(unsigned bits) { bits_ &= ~bits; }

  Task<unsigned> Next() {
    while (bits_ == 0) co_await Suspend();
    co_return std::exchange(bits_, 0);
  }

 private:
  unsigned bits_ = 0;
  std::unique_ptr<Waiter> waiter_;
};

}  // namespace optserve
