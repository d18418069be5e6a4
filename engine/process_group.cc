#include "engine/process_group.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <climits>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "engine/process_frames.h"
#include "engine/util/awaited_ranks.h"
#include "engine/util/descriptor_handover.h"
#include "engine/util/frame_channel.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kQuietEnd{3000};   // of a launcher whose ranks end by themselves
constexpr milliseconds kForcedEnd{3000};  // of one that was asked to end them, and is killed then
constexpr milliseconds kLastOutput{200};  // what it printed is there by then
constexpr milliseconds kLastWords{1500};  // of rank 0, which asks who is still there

void Say(std::string_view line) { std::fprintf(stderr, "optserve: %s\n", std::string(line).c_str()); }

absl::Status ErrnoStatus(std::string_view what) { return Internal("{}: {}", what, strerror(errno)); }  // NOLINT

// The lines that the launcher prints: passed on, and searched for the one that says what went wrong.
class Output {
 public:
  explicit Output(int fd) : fd_(fd) {}
  ~Output() { close(fd_); }

  int fd() const { return fd_; }
  bool has_ended() const { return has_ended_; }

  void Read() {
    std::array<char, 4096> buffer;
    const ssize_t size = read(fd_, buffer.data(), buffer.size());
    if (size < 0 && (errno == EINTR || errno == EAGAIN)) return;
    if (size <= 0) {
      has_ended_ = true;
      return;
    }
    (void)!write(STDERR_FILENO, buffer.data(), static_cast<size_t>(size));
    rest_.append(buffer.data(), static_cast<size_t>(size));
    for (size_t end = rest_.find('\n'); end != std::string::npos; end = rest_.find('\n')) {
      Note(std::string_view(rest_).substr(0, end));
      rest_.erase(0, end + 1);
    }
    if (rest_.size() > kMaxLine) rest_.clear();
  }

  // Empty if it printed nothing.
  const std::string& TellingLine() const {
    return !telling_.empty() ? telling_ : !headline_.empty() ? headline_ : last_;
  }

 private:
  static constexpr size_t kMaxLine = 4096;

  // Our own ranks' last words, mpirun's and srun's way of naming a process, and mpirun's of naming a machine; else the
  // first line between mpirun's rules.
  void Note(std::string_view line) {
    if (line.find_first_not_of(" -=\t\r") == std::string_view::npos) {
      is_after_rule_ = line.size() > 20;
      return;
    }
    if (is_after_rule_ && headline_.empty()) headline_ = line;
    is_after_rule_ = false;
    last_ = line;
    if (!telling_.empty()) return;
    for (const std::string_view sign : {"optserve: ", "process rank ", ": task ", "lost communication"}) {
      if (line.find(sign) == std::string_view::npos) continue;
      telling_ = line;
      return;
    }
  }

  const int fd_;
  bool has_ended_ = false;
  std::string rest_;
  std::string last_;
  bool is_after_rule_ = false;
  std::string headline_;
  std::string telling_;
};

// The program of a rank, beside this one.
absl::StatusOr<std::string> RankProgram() {
  std::array<char, PATH_MAX> program = {};
  if (readlink("/proc/self/exe", program.data(), program.size() - 1) < 0) return ErrnoStatus("/proc/self/exe");
  std::string path = std::string(program.data()) + "-rank";
  if (access(path.c_str(), X_OK) == 0) return path;
  return FailedPrecondition(
      "--engine-launcher needs {}, which is not there; it is built and installed with -DOPTSERVE_MPI=ON", path);
}

class GroupProcess {
 public:
  GroupProcess(int fd, std::vector<std::string> launcher) : fd_(fd), launcher_(std::move(launcher)) {}

  absl::Status Start() {
    sigset_t watched;
    sigemptyset(&watched);
    sigaddset(&watched, kEndGroupSignal);
    sigaddset(&watched, SIGCHLD);
    sigprocmask(SIG_BLOCK, &watched, nullptr);
    signals_ = signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK);
    prctl(PR_SET_PDEATHSIG, kEndGroupSignal);
    prctl(PR_SET_CHILD_SUBREAPER, 1);  // ranks that have outlived the launcher are ours to end

    OPTSERVE_RETURN_IF_ERROR(offer_.Open());
    OPTSERVE_ASSIGN_OR_RETURN(awaited_, AwaitedRanks::Make());
    OPTSERVE_ASSIGN_OR_RETURN(std::string program, RankProgram());
    std::vector<std::string> words = launcher_;
    words.insert(words.end(), {std::move(program), offer_.name()});
    return Launch(std::move(words));
  }

  // Until the launcher has ended. Returns how, to be read after its name.
  std::string Wait() {
    while (!ended_at_.has_value() || (!output_->has_ended() && steady_clock::now() < *ended_at_ + kLastOutput)) {
      std::array<pollfd, 4> asked = {{{.fd = signals_, .events = POLLIN, .revents = 0},
                                      {.fd = output_->has_ended() ? -1 : output_->fd(), .events = POLLIN, .revents = 0},
                                      {.fd = offer_.fd(), .events = POLLIN, .revents = 0},
                                      {.fd = is_front_end_gone_ ? -1 : fd_, .events = POLLRDHUP, .revents = 0}}};
      poll(asked.data(), asked.size(), 100);
      if (asked[0].revents != 0) OnSignal();
      if (asked[1].revents != 0) output_->Read();
      if (asked[2].revents != 0) offer_.Answer(std::array{fd_, awaited_->fd()});
      if (asked[3].revents != 0) OnFrontEndGone();
      PressOn();
    }
    EndOrphans();
    return how_;
  }

  // What is known of a rank that was lost, if rank 0 has been killed before it could say it itself: whom it waited for,
  // and if nobody, who was on other machines, which mpirun does not say when it loses one.
  std::string Suspects() const {
    if (const std::string awaited = awaited_->Names(); !awaited.empty()) return "; rank 0 waited for " + awaited;
    const std::string elsewhere = awaited_->Elsewhere();
    return elsewhere.empty() ? "" : "; on other machines: " + elsewhere;
  }

  bool has_rank0() const { return offer_.fd() < 0; }
  const std::string& telling_line() const { return output_->TellingLine(); }

 private:
  absl::Status Launch(std::vector<std::string> words) {
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    int pipe_ends[2];
    if (pipe2(pipe_ends, O_CLOEXEC) != 0) return ErrnoStatus("cannot make a pipe");
    const pid_t self = getpid();
    pid_ = fork();  // one thread, little memory
    if (pid_ < 0) return ErrnoStatus("cannot start the launcher");
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGTERM);
      if (getppid() != self) _exit(1);
      setpgid(0, 0);  // a Ctrl-C is for the front end, which drains
      sigset_t none;
      sigemptyset(&none);
      sigprocmask(SIG_SETMASK, &none, nullptr);
      for (const int number : {SIGHUP, SIGINT, SIGTERM, SIGPIPE, SIGXFSZ}) signal(number, SIG_DFL);
      dup2(pipe_ends[1], STDOUT_FILENO);
      dup2(pipe_ends[1], STDERR_FILENO);
      close(fd_);
      execvp(argv[0], argv.data());
      Say(fmt::format("cannot run {}: {}", argv[0], strerror(errno)));  // NOLINT
      _exit(127);
    }
    close(pipe_ends[1]);
    fcntl(pipe_ends[0], F_SETFL, O_NONBLOCK);
    output_ = std::make_unique<Output>(pipe_ends[0]);
    return absl::OkStatus();
  }

  void OnSignal() {
    signalfd_siginfo info;
    while (read(signals_, &info, sizeof(info)) == sizeof(info)) {
      if (info.ssi_signo != static_cast<uint32_t>(kEndGroupSignal)) continue;
      was_asked_to_end_ = true;
      Ask(SIGTERM);
    }
    int status = 0;
    if (ended_at_.has_value() || waitpid(pid_, &status, WNOHANG) != pid_) return;
    ended_at_ = steady_clock::now();
    how_ = WIFEXITED(status) ? fmt::format("ended with exit code {}", WEXITSTATUS(status))
                             : fmt::format("was killed by signal {}", WTERMSIG(status));
  }

  // What the launcher has left behind, rank 0 above all, may speak first if there is anybody to hear it.
  void EndOrphans() {
    const steady_clock::time_point begin = steady_clock::now();
    const milliseconds patience = is_front_end_gone_ || was_asked_to_end_ ? milliseconds(0) : kLastWords;
    while (true) {
      const pid_t ended = waitpid(-1, nullptr, WNOHANG);
      if (ended > 0) continue;
      const auto waited = steady_clock::now() - begin;
      if (ended < 0 || waited > patience + kForcedEnd) return;
      if (waited >= patience) {
        std::ifstream children(fmt::format("/proc/self/task/{}/children", getpid()));
        for (pid_t child = 0; children >> child;) kill(child, SIGKILL);
      }
      poll(nullptr, 0, 5);
    }
  }

  // Rank 0 sees it too, and ends the others.
  void OnFrontEndGone() {
    is_front_end_gone_ = true;
    next_push_ = steady_clock::now() + (has_rank0() ? kQuietEnd : milliseconds(0));
    next_signal_ = SIGTERM;
  }

  void Ask(int signal_number) {
    if (ended_at_.has_value()) return;
    kill(pid_, signal_number);
    next_signal_ = SIGKILL;
    next_push_ = steady_clock::now() + kForcedEnd;
  }

  void PressOn() {
    if (next_push_.has_value() && steady_clock::now() >= *next_push_) Ask(next_signal_);
  }

  const int fd_;
  const std::vector<std::string> launcher_;
  int signals_ = -1;
  DescriptorOffer offer_;  // of fd_ and awaited_, for rank 0
  std::unique_ptr<AwaitedRanks> awaited_;
  pid_t pid_ = 0;
  std::unique_ptr<Output> output_;
  bool is_front_end_gone_ = false;
  bool was_asked_to_end_ = false;
  std::optional<steady_clock::time_point> next_push_;  // when the launcher gets next_signal_
  int next_signal_ = SIGTERM;
  std::optional<steady_clock::time_point> ended_at_;
  std::string how_;
};

// To the front end, in place of an engine that can no longer speak.
void SendLastWords(int fd, const absl::Status& why, bool has_started) {
  internal::FromEngine frame;
  ToProto(why, has_started ? frame.mutable_death() : frame.mutable_start_failed());
  FrameChannel channel(fd);
  channel.Send(frame.SerializeAsString());
  channel.Flush();
}

}  // namespace

int RunEngineGroup(int fd, const std::vector<std::string>& launcher) {
  signal(SIGHUP, SIG_IGN);
  signal(SIGINT, SIG_IGN);
  signal(SIGTERM, SIG_IGN);
  signal(SIGPIPE, SIG_IGN);
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  GroupProcess group(fd, launcher);
  if (const absl::Status status = group.Start(); !status.ok()) {
    SendLastWords(fd, status, /*has_started=*/false);
    return 1;
  }
  std::string words = fmt::format("{} {}", launcher.front(), group.Wait());
  if (const std::string& line = group.telling_line(); !line.empty()) words += ": " + line;
  words += group.Suspects();
  SendLastWords(fd, Unavailable("{}", words), group.has_rank0());
  return 1;
}

}  // namespace optserve
