#include "server/http/io_loop.h"

#include <pthread.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <ctime>
#include <utility>

#include "server/http/connection.h"

namespace optserve {
namespace {

constexpr size_t kScratchBytes = 64 * 1024;

}  // namespace

IoLoop::IoLoop(std::chrono::milliseconds tick)
    : work_(context_.get_executor()), timer_(context_.get_executor()), tick_(tick), scratch_(kScratchBytes) {}

void IoLoop::Start() {
  thread_ = std::thread([this] {
    pthread_setname_np(pthread_self(), "http-io");
    Tick();
    context_.run();
  });
}

void IoLoop::Stop() {
  asio::post(context_, [this] {
    stopping_ = true;
    timer_.cancel();
    for (const std::shared_ptr<Connection>& connection : std::vector(connections_)) connection->OnStop();
    EndIfStopped();
  });
}

void IoLoop::Join() {
  if (thread_.joinable()) thread_.join();
}

std::chrono::milliseconds IoLoop::Silence() const {
  return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - last_tick_.load());
}

void IoLoop::EndIfStopped() {
  if (stopping_ && connections_.empty()) work_.reset();
}

void IoLoop::Notify(std::shared_ptr<Notice> notice) {
  if (notice->queued.exchange(true)) return;
  {
    const std::lock_guard lock(mu_);
    notices_.push_back(std::move(notice));
    if (notices_.size() > 1) return;  // the first one has rung
  }
  asio::post(context_, [self = shared_from_this()] { self->DeliverNotices(); });
}

void IoLoop::DeliverNotices() {
  std::vector<std::shared_ptr<Notice>> notices;
  {
    const std::lock_guard lock(mu_);
    notices.swap(notices_);
  }
  for (const std::shared_ptr<Notice>& notice : notices) {
    notice->queued = false;  // before the connection looks: what comes later rings again
    if (notice->connection != nullptr) notice->connection->OnNotice();
  }
}

void IoLoop::Add(std::shared_ptr<Connection> connection) {
  connection->set_loop_index(connections_.size());
  connections_.push_back(std::move(connection));
  if (stopping_) connections_.back()->OnStop();
}

void IoLoop::Remove(Connection& connection) {
  const size_t index = connection.loop_index();
  std::swap(connections_[index], connections_.back());
  connections_[index]->set_loop_index(index);
  connections_.pop_back();
  EndIfStopped();
}

// Deadlines are seconds long and there are thousands of them: looking at all of them now and then is cheaper than a
// timer for each that is nearly always set back.
void IoLoop::Tick() {
  const Clock::time_point now = Clock::now();
  last_tick_ = now;
  std::vector<std::shared_ptr<Connection>> due;
  for (const std::shared_ptr<Connection>& connection : connections_) {
    if (connection->IsDue(now)) due.push_back(connection);
  }
  for (const std::shared_ptr<Connection>& connection : due) connection->OnDue(now);
  timer_.expires_after(tick_);
  timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error && !stopping_) Tick();
  });
}

const std::string& IoLoop::HttpDate() {
  const std::time_t now = std::time(nullptr);
  if (now != date_second_) {
    std::tm utc{};
    gmtime_r(&now, &utc);
    char text[64];
    std::strftime(text, sizeof(text), "%a, %d %b %Y %H:%M:%S GMT", &utc);
    date_ = text;
    date_second_ = now;
  }
  return date_;
}

}  // namespace optserve
