#include "server/access/api_keys.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <functional>
#include <optional>
#include <set>
#include <span>

#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxNameBytes = 200;
constexpr size_t kSecretBytes = 24;
constexpr size_t kIdBytes = 4;
constexpr mode_t kFileMode = 0600;

struct SettingInfo {
  std::string_view name;
  int64_t KeySettings::*member;
  int64_t min;
  int64_t max;
};

constexpr SettingInfo kSettings[] = {
    {"requests_per_minute", &KeySettings::requests_per_minute, 0, 1'000'000'000},
    {"tokens_per_minute", &KeySettings::tokens_per_minute, 0, 1'000'000'000'000},
    {"concurrent_requests", &KeySettings::concurrent_requests, 0, 1'000'000},
    {"share_weight", &KeySettings::share_weight, 1, 1000},
};

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

absl::Status FileError(const fs::path& file, std::string_view what) {
  const std::string text = fmt::format("API key file {}: {}: {}", file.string(), what, std::strerror(errno));
  return errno == ENOENT ? absl::NotFoundError(text) : absl::FailedPreconditionError(text);
}

std::string ToHex(std::span<const uint8_t> bytes) {
  std::string hex;
  for (const uint8_t byte : bytes) hex += fmt::format("{:02x}", byte);
  return hex;
}

std::optional<ApiKeyHash> HashFromHex(std::string_view hex) {
  ApiKeyHash hash{};
  if (hex.size() != 2 * hash.size()) return std::nullopt;
  for (size_t i = 0; i < hex.size(); ++i) {
    const char c = hex[i];
    const bool is_digit = c >= '0' && c <= '9';
    if (!is_digit && (c < 'a' || c > 'f')) return std::nullopt;
    hash[i / 2] = static_cast<uint8_t>(hash[i / 2] * 16 + (is_digit ? c - '0' : c - 'a' + 10));
  }
  return hash;
}

absl::StatusOr<std::string> RandomHex(size_t num_bytes) {
  std::array<uint8_t, 64> bytes{};
  if (RAND_bytes(bytes.data(), static_cast<int>(num_bytes)) != 1) {
    return absl::UnavailableError("the system has no randomness for a key; try again");
  }
  return ToHex(std::span(bytes).first(num_bytes));
}

std::string Now() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

// Up to the next space, which is taken too.
std::string_view TakeWord(std::string_view& line) {
  const size_t end = std::min(line.find(' '), line.size());
  const std::string_view word = line.substr(0, end);
  line.remove_prefix(std::min(end + 1, line.size()));
  return word;
}

bool IsIgnored(std::string_view line) { return line.empty() || line.front() == '#'; }

bool BeginsWithSetting(std::string_view text) { return text.substr(0, text.find(' ')).find('=') != text.npos; }

absl::Status ParseSettings(std::string_view& line, KeySettings& settings) {
  while (BeginsWithSetting(line)) {
    const std::string_view word = TakeWord(line);
    const size_t equals = word.find('=');
    const std::string_view digits = word.substr(equals + 1);
    KeyChange change{.setting = std::string(word.substr(0, equals))};
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), change.value);
    if (error != std::errc() || end != digits.data() + digits.size()) {
      return InvalidArgument("{} is not a whole number", change.setting);
    }
    OPTSERVE_RETURN_IF_ERROR(ApplyChanges({&change, 1}, settings));
  }
  return absl::OkStatus();
}

absl::StatusOr<ApiKey> ParseLine(std::string_view line) {
  ApiKey key;
  key.id = TakeWord(line);
  const std::optional<ApiKeyHash> hash = HashFromHex(TakeWord(line));
  key.created = TakeWord(line);
  if (!key.id.starts_with("key-") || key.id.size() > 64 || !hash || key.created.empty()) {
    return InvalidArgument("not `ID SHA256 CREATED [SETTING=N ...] NAME`");
  }
  OPTSERVE_RETURN_IF_ERROR(ParseSettings(line, key.settings));
  key.name = line;
  key.hash = *hash;
  return key;
}

std::string PrintLine(const ApiKey& key) {
  std::string line = fmt::format("{} {} {}", key.id, ToHex(key.hash), key.created);
  for (const std::string& part : {PrintSettings(key.settings), key.name}) {
    if (!part.empty()) line += fmt::format(" {}", part);
  }
  return line + '\n';
}

absl::StatusOr<std::string> ReadWhole(const fs::path& file) {
  const FileDescriptor fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info {};
  if (fd.get() < 0 || ::fstat(fd.get(), &info) != 0) return FileError(file, "cannot be read");
  if (!S_ISREG(info.st_mode)) return InvalidArgument("API key file {} is not a file", file.string());
  if ((info.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    return FailedPrecondition("API key file {} can be written by others than its owner: chmod 600 {}", file.string(),
                              file.string());
  }
  std::string text;
  char buffer[4096];
  ssize_t count = 0;
  while ((count = ::read(fd.get(), buffer, sizeof(buffer))) > 0) text.append(buffer, static_cast<size_t>(count));
  if (count < 0) return FileError(file, "cannot be read");
  return text;
}

absl::Status WriteWhole(const fs::path& file, int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = ::write(fd, text.data(), text.size());
    if (count < 0) return FileError(file, "cannot be written");
    text.remove_prefix(static_cast<size_t>(count));
  }
  if (::fsync(fd) != 0) return FileError(file, "cannot be written");
  return absl::OkStatus();
}

// Every line, with what it means: none for those that are ignored.
struct Line {
  std::string text;
  std::optional<ApiKey> key;
};

absl::StatusOr<std::vector<Line>> ReadLines(const fs::path& file) {
  OPTSERVE_ASSIGN_OR_RETURN(const std::string text, ReadWhole(file));
  std::vector<Line> lines;
  std::set<std::string> ids;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    std::optional<ApiKey> key;
    if (!IsIgnored(line)) {
      absl::StatusOr<ApiKey> parsed = ParseLine(line);
      if (!parsed.ok()) {
        return InvalidArgument("API key file {}, line {}: {}", file.string(), lines.size() + 1,
                               std::string(parsed.status().message()));
      }
      key = *std::move(parsed);
      if (!ids.insert(key->id).second) {
        return InvalidArgument("API key file {}, line {}: {} is there twice", file.string(), lines.size() + 1, key->id);
      }
    }
    lines.push_back({std::string(line), std::move(key)});
  }
  return lines;
}

// Held while the file is changed: two changes at a time would lose one.
absl::StatusOr<std::unique_ptr<FileDescriptor>> LockDirectoryOf(const fs::path& file) {
  const fs::path directory = file.has_parent_path() ? file.parent_path() : fs::path(".");
  auto fd = std::make_unique<FileDescriptor>(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd->get() < 0 || ::flock(fd->get(), LOCK_EX) != 0) return FileError(file, "its directory cannot be opened");
  return fd;
}

// Writes the whole file anew, beside the old one, and puts it in its place: a reader sees one or the other.
absl::Status ReplaceFile(const fs::path& file, std::string_view text) {
  const fs::path next = file.string() + ".new";
  const FileDescriptor fd(::open(next.c_str(), O_WRONLY | O_TRUNC | O_CREAT | O_CLOEXEC, kFileMode));
  if (fd.get() < 0) return FileError(next, "cannot be written");
  OPTSERVE_RETURN_IF_ERROR(WriteWhole(next, fd.get(), text));
  if (std::rename(next.c_str(), file.c_str()) != 0) return FileError(file, "cannot be replaced");
  return absl::OkStatus();
}

// Rewrites the file with what `change` makes of the key's line; it may empty it. The result is the key afterwards.
absl::StatusOr<ApiKey> RewriteKey(const fs::path& file, std::string_view id,
                                  const std::function<absl::StatusOr<std::string>(ApiKey&)>& change) {
  OPTSERVE_ASSIGN_OR_RETURN(const auto lock, LockDirectoryOf(file));
  OPTSERVE_ASSIGN_OR_RETURN(std::vector<Line> lines, ReadLines(file));
  std::optional<ApiKey> changed;
  std::string text;
  for (Line& line : lines) {
    if (line.key && line.key->id == id) {
      OPTSERVE_ASSIGN_OR_RETURN(const std::string next, change(*line.key));
      text += next;
      changed = std::move(line.key);
    } else {
      text += line.text;
      text += '\n';
    }
  }
  if (!changed) return NotFound("API key file {} has no key {}", file.string(), id);
  OPTSERVE_RETURN_IF_ERROR(ReplaceFile(file, text));
  return *std::move(changed);
}

}  // namespace

absl::Status ApplyChanges(std::span<const KeyChange> changes, KeySettings& settings) {
  for (const KeyChange& change : changes) {
    const auto* info = std::ranges::find(kSettings, change.setting, &SettingInfo::name);
    if (info == std::end(kSettings)) return InvalidArgument("there is no setting {}", change.setting);
    if (change.value < info->min || change.value > info->max) {
      return InvalidArgument("{} is {}, but it must be from {} to {}", change.setting, change.value, info->min,
                             info->max);
    }
    settings.*info->member = change.value;
  }
  return absl::OkStatus();
}

std::string PrintSettings(const KeySettings& settings) {
  std::string text;
  for (const SettingInfo& info : kSettings) {
    if (settings.*info.member == KeySettings().*info.member) continue;
    text += fmt::format("{}{}={}", text.empty() ? "" : " ", info.name, settings.*info.member);
  }
  return text;
}

ApiKeyHash HashApiKey(std::string_view secret) {
  ApiKeyHash hash{};
  unsigned int size = hash.size();
  EVP_Digest(secret.data(), secret.size(), hash.data(), &size, EVP_sha256(), nullptr);
  return hash;
}

absl::StatusOr<std::vector<ApiKey>> ReadApiKeys(const fs::path& file) {
  OPTSERVE_ASSIGN_OR_RETURN(std::vector<Line> lines, ReadLines(file));
  std::vector<ApiKey> keys;
  for (Line& line : lines) {
    if (line.key) keys.push_back(*std::move(line.key));
  }
  return keys;
}

absl::StatusOr<NewApiKey> AddApiKey(const fs::path& file, std::string_view name, const KeySettings& settings) {
  if (name.size() > kMaxNameBytes || std::any_of(name.begin(), name.end(), [](unsigned char c) { return c < ' '; })) {
    return InvalidArgument("a key's name must be at most {} bytes without control characters", kMaxNameBytes);
  }
  if (BeginsWithSetting(name)) {
    return InvalidArgument("a key's name must not begin with a word that has a '=': that is where settings are");
  }
  OPTSERVE_ASSIGN_OR_RETURN(const auto lock, LockDirectoryOf(file));
  OPTSERVE_ASSIGN_OR_RETURN(const std::string secret, RandomHex(kSecretBytes));
  OPTSERVE_ASSIGN_OR_RETURN(const std::string id, RandomHex(kIdBytes));
  NewApiKey made{
      .secret = fmt::format("sk-{}", secret),
      .key = {.id = fmt::format("key-{}", id), .created = Now(), .settings = settings, .name = std::string(name)}};
  made.key.hash = HashApiKey(made.secret);

  std::string before;
  std::error_code ignored;
  if (fs::exists(file, ignored)) {
    OPTSERVE_RETURN_IF_ERROR(ReadLines(file).status());
    OPTSERVE_ASSIGN_OR_RETURN(before, ReadWhole(file));
  }
  const FileDescriptor fd(::open(file.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, kFileMode));
  if (fd.get() < 0) return FileError(file, "cannot be written");
  const bool ends_in_a_line = before.empty() || before.back() == '\n';
  OPTSERVE_RETURN_IF_ERROR(
      WriteWhole(file, fd.get(), fmt::format("{}{}", ends_in_a_line ? "" : "\n", PrintLine(made.key))));
  return made;
}

absl::StatusOr<ApiKey> ChangeApiKey(const fs::path& file, std::string_view id, std::span<const KeyChange> changes) {
  return RewriteKey(file, id, [&](ApiKey& key) -> absl::StatusOr<std::string> {
    OPTSERVE_RETURN_IF_ERROR(ApplyChanges(changes, key.settings));
    return PrintLine(key);
  });
}

absl::StatusOr<ApiKey> RevokeApiKey(const fs::path& file, std::string_view id) {
  return RewriteKey(file, id, [](ApiKey&) -> absl::StatusOr<std::string> { return ""; });
}

}  // namespace optserve
