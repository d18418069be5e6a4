#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace optserve {

enum class Verdict { kOk, kWarn, kFail };

// One line of `optserve doctor`.
struct Finding {
  Verdict verdict = Verdict::kOk;
  std::string_view check;  // a name for programs: [a-z_]+
  std::string text;        // what is the case
  std::string fix;         // one thing to do; empty if all is well
};

// What a group of checks has found so far.
class Findings {
 public:
  void Ok(std::string_view check, std::string text) { list_.push_back({Verdict::kOk, check, std::move(text), ""}); }
  void Warn(std::string_view check, std::string text, std::string fix) {
    list_.push_back({Verdict::kWarn, check, std::move(text), std::move(fix)});
  }
  void Fail(std::string_view check, std::string text, std::string fix) {
    list_.push_back({Verdict::kFail, check, std::move(text), std::move(fix)});
  }

  const std::vector<Finding>& list() const { return list_; }

 private:
  std::vector<Finding> list_;
};

}  // namespace optserve
