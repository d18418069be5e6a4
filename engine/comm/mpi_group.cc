#include "engine/comm/mpi_group.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <climits>
#include <thread>
#include <utility>

#include "engine/comm/patience.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "kernels/common/check.h"

namespace optserve {
namespace {

using std::chrono::steady_clock;

constexpr int kMessageTag = 1;
constexpr int kAbortTag = 2;
constexpr int kTensorTag = 3;
constexpr size_t kMaxReason = 1000;  // bytes of an abort, so that it goes out without a receiver's consent
constexpr std::chrono::milliseconds kAbortTime{500};
constexpr std::chrono::milliseconds kRound{10};  // of WaitTogether

double SecondsSince(steady_clock::time_point begin) {
  return std::chrono::duration<double>(steady_clock::now() - begin).count();
}

int Count(size_t num_bytes) {
  OPTSERVE_CHECK(num_bytes <= INT_MAX) << num_bytes << " bytes in one message";
  return static_cast<int>(num_bytes);
}

}  // namespace

absl::StatusOr<std::unique_ptr<MpiGroup>> MpiGroup::Join() {
  int provided = 0;
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided) != MPI_SUCCESS) {
    return Unavailable("MPI did not start; this command is run by mpirun or srun");
  }
  if (provided < MPI_THREAD_SERIALIZED) return Unavailable("this MPI serves only programs of one thread");
  std::unique_ptr<MpiGroup> group(new MpiGroup);
  int size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &group->rank_);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  MPI_Comm_dup(MPI_COMM_WORLD, &group->messages_);
  MPI_Comm_dup(MPI_COMM_WORLD, &group->tensors_);

  MPI_Comm neighbours = MPI_COMM_NULL;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &neighbours);
  MPI_Comm_size(neighbours, &group->ranks_on_this_host_);
  MPI_Comm_rank(neighbours, &group->rank_on_this_host_);
  int32_t first = group->rank_;
  MPI_Bcast(&first, 1, MPI_INT32_T, 0, neighbours);
  group->first_of_host_.resize(static_cast<size_t>(size));
  MPI_Allgather(&first, 1, MPI_INT32_T, group->first_of_host_.data(), 1, MPI_INT32_T, MPI_COMM_WORLD);
  MPI_Comm_free(&neighbours);

  using Host = std::array<char, MPI_MAX_PROCESSOR_NAME>;
  Host host = {};
  int length = 0;
  MPI_Get_processor_name(host.data(), &length);
  std::vector<Host> hosts(static_cast<size_t>(size));
  MPI_Allgather(host.data(), sizeof(Host), MPI_BYTE, hosts.data(), sizeof(Host), MPI_BYTE, MPI_COMM_WORLD);
  for (const Host& name : hosts) group->hosts_.emplace_back(name.data());
  if (size > AwaitedRanks::kMaxRanks)
    return InvalidArgument("{} ranks are more than {}", size, AwaitedRanks::kMaxRanks);
  OPTSERVE_ASSIGN_OR_RETURN(std::unique_ptr<AwaitedRanks> awaited, AwaitedRanks::Make());
  group->NoteAwaitedIn(std::move(awaited));
  return group;
}

MpiGroup::~MpiGroup() {
  const std::lock_guard lock(mu_);
  if (has_failed_) return;
  MPI_Comm_free(&messages_);
  MPI_Comm_free(&tensors_);
  MPI_Finalize();
}

std::string MpiGroup::Name(int rank) const {
  return fmt::format("rank {} on host {}", rank, hosts_[static_cast<size_t>(rank)]);
}

void MpiGroup::NoteAwaitedIn(std::unique_ptr<AwaitedRanks> where) {
  awaited_ = std::move(where);
  for (int rank = 0; rank < size(); ++rank) awaited_->SetName(rank, Name(rank), hosts_[rank] != hosts_[rank_]);
}

absl::Status MpiGroup::status() const {
  const std::lock_guard lock(status_mu_);
  return status_;
}

void MpiGroup::Fail(const absl::Status& why) {
  const std::lock_guard lock(status_mu_);
  if (status_.ok()) status_ = why;
  has_failed_ = true;
}

// --- waiting ---------------------------------------------------------------------------------------------------------

absl::Status MpiGroup::WaitUntil(double limit_seconds, const std::function<bool()>& is_done) {
  const steady_clock::time_point begin = steady_clock::now();
  Patience patience;
  while (true) {
    {
      const std::lock_guard lock(mu_);
      if (is_done()) return absl::OkStatus();
      LookForAbort();
    }
    if (has_failed_) return status();
    if (limit_seconds > 0 && SecondsSince(begin) > limit_seconds) {
      Abort(Unavailable("{} waited {:.1f} s for {}", Name(rank_), limit_seconds, awaited()));
      return status();
    }
    patience.Rest();
  }
}

void MpiGroup::LookForAbort() {
  int is_there = 0;
  MPI_Status status;
  MPI_Iprobe(MPI_ANY_SOURCE, kAbortTag, messages_, &is_there, &status);
  if (is_there == 0) return;
  std::array<char, kMaxReason> reason;
  MPI_Recv(reason.data(), static_cast<int>(reason.size()), MPI_BYTE, status.MPI_SOURCE, kAbortTag, messages_, &status);
  int length = 0;
  MPI_Get_count(&status, MPI_BYTE, &length);
  Fail(Internal("{}", std::string(reason.data(), static_cast<size_t>(length))));
}

void MpiGroup::Abort(const absl::Status& why) {
  if (has_failed_) return;
  Fail(why);
  const std::string reason(why.message().substr(0, kMaxReason));
  std::vector<MPI_Request> requests;
  const std::lock_guard lock(mu_);
  for (int rank = 0; rank < size(); ++rank) {
    if (rank == rank_) continue;
    MPI_Isend(reason.data(), Count(reason.size()), MPI_BYTE, rank, kAbortTag, messages_, &requests.emplace_back());
  }
  // Those that live take it at once. Nobody waits for the others.
  const steady_clock::time_point deadline = steady_clock::now() + kAbortTime;
  int is_done = 0;
  while (is_done == 0 && steady_clock::now() < deadline) {
    MPI_Testall(static_cast<int>(requests.size()), requests.data(), &is_done, MPI_STATUSES_IGNORE);
  }
}

// --- messages --------------------------------------------------------------------------------------------------------

absl::Status MpiGroup::SendAll(std::string_view message, const std::vector<int>& to, int tag) {
  std::vector<MPI_Request> requests(to.size());
  // Before MPI is called, which may not come back soon from one that has gone.
  for (const int rank : to) awaited_->Set(rank, true);
  {
    const std::lock_guard lock(mu_);
    for (size_t i = 0; i < to.size(); ++i) {
      MPI_Isend(message.data(), Count(message.size()), MPI_BYTE, to[i], tag, messages_, &requests[i]);
    }
  }
  const absl::Status status = WaitUntil(0, [&] {
    bool are_all_sent = true;
    for (size_t i = 0; i < to.size(); ++i) {
      int is_sent = 0;
      MPI_Test(&requests[i], &is_sent, MPI_STATUS_IGNORE);
      awaited_->Set(to[i], is_sent == 0);
      are_all_sent = are_all_sent && is_sent != 0;
    }
    return are_all_sent;
  });
  for (const int rank : to) awaited_->Set(rank, false);
  return status;
}

absl::Status MpiGroup::SendToOthers(std::string_view message) {
  std::vector<int> others;
  for (int rank = 1; rank < size(); ++rank) others.push_back(rank);
  return SendAll(message, others, kMessageTag);
}

absl::Status MpiGroup::SendToFirst(std::string_view message) { return SendAll(message, {0}, kMessageTag); }

absl::StatusOr<std::string> MpiGroup::ReceiveFromFirst(double limit_seconds) {
  std::string message;
  awaited_->Set(0, true);
  const absl::Status status = WaitUntil(limit_seconds, [&] {
    int is_there = 0;
    MPI_Status arrived;
    MPI_Iprobe(0, kMessageTag, messages_, &is_there, &arrived);
    if (is_there == 0) return false;
    int length = 0;
    MPI_Get_count(&arrived, MPI_BYTE, &length);
    message.resize(static_cast<size_t>(length));
    MPI_Recv(message.data(), length, MPI_BYTE, 0, kMessageTag, messages_, MPI_STATUS_IGNORE);
    return true;
  });
  awaited_->Set(0, false);
  if (!status.ok()) return status;
  return message;
}

absl::StatusOr<std::vector<std::string>> MpiGroup::ReceiveFromOthers(double limit_seconds) {
  std::vector<std::string> messages(static_cast<size_t>(size()));
  int num_missing = size() - 1;
  for (int rank = 1; rank < size(); ++rank) awaited_->Set(rank, true);
  const absl::Status status = WaitUntil(limit_seconds, [&] {
    for (int rank = 1; rank < size(); ++rank) {
      if (!awaited_->IsAwaited(rank)) continue;
      int is_there = 0;
      MPI_Status arrived;
      MPI_Iprobe(rank, kMessageTag, messages_, &is_there, &arrived);
      if (is_there == 0) continue;
      int length = 0;
      MPI_Get_count(&arrived, MPI_BYTE, &length);
      std::string& message = messages[static_cast<size_t>(rank)];
      message.resize(static_cast<size_t>(length));
      MPI_Recv(message.data(), length, MPI_BYTE, rank, kMessageTag, messages_, MPI_STATUS_IGNORE);
      awaited_->Set(rank, false);
      --num_missing;
    }
    return num_missing == 0;
  });
  for (int rank = 1; rank < size(); ++rank) awaited_->Set(rank, false);
  if (!status.ok()) return status;
  return messages;
}

// --- tensors ---------------------------------------------------------------------------------------------------------

bool MpiGroup::Exchange(const std::vector<Transfer>& sends, const std::vector<Transfer>& receives) {
  if (has_failed_) return false;
  std::vector<MPI_Request> sending(sends.size());
  std::vector<MPI_Request> receiving(receives.size());
  for (const Transfer& transfer : receives) awaited_->Set(transfer.rank, true);
  for (const Transfer& transfer : sends) awaited_->Set(transfer.rank, true);
  {
    const std::lock_guard lock(mu_);
    for (size_t i = 0; i < receives.size(); ++i) {
      MPI_Irecv(receives[i].data, Count(receives[i].num_bytes), MPI_BYTE, receives[i].rank, kTensorTag, tensors_,
                &receiving[i]);
    }
    for (size_t i = 0; i < sends.size(); ++i) {
      MPI_Isend(sends[i].data, Count(sends[i].num_bytes), MPI_BYTE, sends[i].rank, kTensorTag, tensors_, &sending[i]);
    }
  }
  std::vector<bool> is_pending(hosts_.size());
  // A large part needs its receiver too: whoever has not taken one is waited for like one who has not sent.
  const absl::Status status = WaitUntil(silence_limit_seconds_, [&] {
    is_pending.assign(is_pending.size(), false);
    const auto test = [&](MPI_Request& request, int rank) {
      int is_there = 0;
      MPI_Test(&request, &is_there, MPI_STATUS_IGNORE);
      if (is_there == 0) is_pending[static_cast<size_t>(rank)] = true;
    };
    for (size_t i = 0; i < receives.size(); ++i) test(receiving[i], receives[i].rank);
    for (size_t i = 0; i < sends.size(); ++i) test(sending[i], sends[i].rank);
    for (int rank = 0; rank < size(); ++rank) awaited_->Set(rank, is_pending[static_cast<size_t>(rank)]);
    return std::ranges::find(is_pending, true) == is_pending.end();
  });
  if (status.ok()) return true;
  // What has not come must not be written to memory that its owner uses again.
  const std::lock_guard lock(mu_);
  for (MPI_Request& request : receiving) {
    if (request != MPI_REQUEST_NULL) MPI_Cancel(&request);
  }
  return false;
}

MpiGroup::Progress MpiGroup::WaitTogether(const std::function<Progress()>& how_far) {
  std::vector<Progress> all(hosts_.size());
  while (true) {
    const steady_clock::time_point begin = steady_clock::now();
    Progress& mine = all[static_cast<size_t>(rank_)];
    Patience patience;
    while ((mine = how_far()) == Progress::kWaiting && steady_clock::now() - begin < kRound) patience.Rest();
    std::vector<Transfer> sends, receives;
    for (int rank = 0; rank < size(); ++rank) {
      if (rank == rank_) continue;
      sends.push_back({rank, &mine, sizeof(Progress)});
      receives.push_back({rank, &all[static_cast<size_t>(rank)], sizeof(Progress)});
    }
    if (!Exchange(sends, receives) || mine == Progress::kFailed) return Progress::kFailed;
    if (std::ranges::count(all, Progress::kDone) == size()) return Progress::kDone;
  }
}

}  // namespace optserve
