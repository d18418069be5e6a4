#include "engine/tools/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/checksums.h"
#include "engine/checkpoint/scan_tensor.h"
#include "engine/model/load_config.h"
#include "engine/model/opt_weights.h"
#include "engine/util/model_directory.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

constexpr size_t kMd5Digits = 32;
constexpr size_t kSha256Digits = 64;

std::string Text(const absl::Status& status) { return std::string(status.message()); }

bool IsDigits(std::string_view text) {
  return (text.size() == kMd5Digits || text.size() == kSha256Digits) &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isxdigit(c) != 0; });
}

std::string Lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return lower;
}

std::vector<std::string_view> Words(std::string_view line) {
  constexpr std::string_view kSeparators = " \t\r,;\"*";
  std::vector<std::string_view> words;
  while (true) {
    const size_t begin = line.find_first_not_of(kSeparators);
    if (begin == std::string_view::npos) return words;
    const size_t end = std::min(line.find_first_of(kSeparators, begin), line.size());
    words.push_back(line.substr(begin, end - begin));
    line.remove_prefix(end);
  }
}

// Lines without a checksum, such as a heading, are skipped; a list without any is a mistake.
absl::StatusOr<std::vector<Checksum>> ReadChecksums(const std::string& path) {
  std::ifstream file(path);
  if (!file) return NotFound("{} cannot be read", path);
  std::vector<Checksum> checksums;
  for (std::string line; std::getline(file, line);) {
    std::optional<std::string_view> digits, name;
    for (const std::string_view word : Words(line)) {
      if (!digits && IsDigits(word)) {
        digits = word;
      } else {
        name = word.substr(word.rfind('/') + 1);
      }
    }
    if (digits && name) {
      checksums.push_back({.file = std::string(*name),
                           .kind = digits->size() == kMd5Digits ? HashKind::kMd5 : HashKind::kSha256,
                           .digits = Lower(*digits)});
    }
  }
  if (checksums.empty()) return InvalidArgument("{} lists no MD5 or SHA-256", path);
  return checksums;
}

class Verifier {
 public:
  explicit Verifier(const std::function<void(int64_t, int64_t)>& progress) : progress_(progress) {}

  void CheckFiles(const ModelDirectory& directory, const std::vector<Checksum>& checksums) {
    std::vector<std::pair<const Checksum*, std::unique_ptr<MappedFile>>> files;
    for (const Checksum& checksum : checksums) {
      absl::StatusOr<std::unique_ptr<MappedFile>> file = directory.Map(checksum.file);
      if (!file.ok()) {
        Complain(Text(file.status()));
        continue;
      }
      bytes_to_read_ += static_cast<int64_t>((*file)->bytes().size());
      files.emplace_back(&checksum, *std::move(file));
    }
    for (const auto& [checksum, file] : files) {
      if (std::optional<std::string> problem = ProblemOf(*file, *checksum)) Complain(*std::move(problem));
      ++report_.checksums;
      Read(static_cast<int64_t>(file->bytes().size()));
    }
  }

  void CheckModel(const std::string& directory, const std::string& config_file) {
    const absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint = OpenCheckpoint(directory);
    if (!checkpoint.ok()) {
      Complain(Text(checkpoint.status()));
      // The configuration can be wrong too.
      const absl::StatusOr<OptConfig> config = LoadOptConfig(directory, config_file);
      if (!config.ok() && !absl::IsNotFound(config.status())) Complain(Text(config.status()));
      return;
    }
    bytes_to_read_ += (*checkpoint)->total_bytes();
    const absl::StatusOr<OptConfig> config = LoadModelConfig(directory, **checkpoint, config_file);
    if (!config.ok()) {
      Complain(Text(config.status()));
    } else {
      for (std::string& mismatch : FindMismatches(*config, **checkpoint)) Complain(std::move(mismatch));
    }
    for (const CheckpointTensor& tensor : (*checkpoint)->tensors()) CheckTensor(tensor);
  }

  VerifyReport TakeReport() { return std::move(report_); }

 private:
  void Complain(std::string problem) { report_.problems.push_back(std::move(problem)); }

  void Read(int64_t bytes) {
    report_.bytes_read += bytes;
    if (progress_) progress_(report_.bytes_read, std::max(report_.bytes_read, bytes_to_read_));
  }

  void CheckTensor(const CheckpointTensor& tensor) {
    if (std::optional<std::string> problem = ProblemOf(tensor, ScanTensor(tensor))) Complain(*std::move(problem));
    if (std::optional<std::string> problem = ProblemOfCopies(tensor)) Complain(*std::move(problem));
    ++report_.tensors;
    Read(static_cast<int64_t>(tensor.view.num_bytes()));
  }

  const std::function<void(int64_t, int64_t)>& progress_;
  VerifyReport report_;
  int64_t bytes_to_read_ = 0;
};

}  // namespace

absl::StatusOr<VerifyReport> VerifyModel(const VerifyOptions& options,
                                         const std::function<void(int64_t, int64_t)>& progress) {
  OPTSERVE_ASSIGN_OR_RETURN(const ModelDirectory directory, ModelDirectory::Open(options.model_directory));
  std::vector<Checksum> checksums = CacheChecksums(directory);
  if (!options.checksum_file.empty()) {
    OPTSERVE_ASSIGN_OR_RETURN(checksums, ReadChecksums(options.checksum_file));
  }
  Verifier verifier(progress);
  verifier.CheckFiles(directory, checksums);
  verifier.CheckModel(options.model_directory, options.config_file);
  return verifier.TakeReport();
}

}  // namespace optserve
