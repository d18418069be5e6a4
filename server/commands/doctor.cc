#include "server/commands/doctor.h"

#include <algorithm>
#include <cstdio>

#include "nlohmann/json.hpp"
#include "server/commands/failure.h"

namespace optserve {
namespace {

std::string_view Word(Verdict verdict) {
  switch (verdict) {
    case Verdict::kOk:
      return "OK";
    case Verdict::kWarn:
      return "WARN";
    case Verdict::kFail:
      return "FAIL";
  }
  return "";
}

std::string Text(const std::vector<Finding>& findings) {
  std::string text;
  for (const Finding& finding : findings) {
    text += fmt::format("{:<4}  {:<18}  {}", Word(finding.verdict), finding.check, finding.text);
    if (!finding.fix.empty()) text += fmt::format("; fix: {}", finding.fix);
    text += '\n';
  }
  const auto count = [&](Verdict verdict) { return std::ranges::count(findings, verdict, &Finding::verdict); };
  return text + fmt::format("{} ok, {} to look at, {} failed\n", count(Verdict::kOk), count(Verdict::kWarn),
                            count(Verdict::kFail));
}

std::string Json(const std::vector<Finding>& findings, bool ok) {
  nlohmann::ordered_json checks = nlohmann::ordered_json::array();
  for (const Finding& finding : findings) {
    checks.push_back(
        {{"check", finding.check}, {"verdict", Word(finding.verdict)}, {"text", finding.text}, {"fix", finding.fix}});
  }
  return nlohmann::ordered_json({{"ok", ok}, {"checks", checks}}).dump(2) + "\n";
}

}  // namespace

int Doctor(const DoctorRequest& request, bool json) {
  const std::vector<Finding> findings = Examine(request);
  const bool ok = std::ranges::find(findings, Verdict::kFail, &Finding::verdict) == findings.end();
  std::fputs((json ? Json(findings, ok) : Text(findings)).c_str(), stdout);
  return ok ? kExitOk : kExitRuntimeError;
}

}  // namespace optserve
