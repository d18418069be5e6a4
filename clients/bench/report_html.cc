#include "clients/bench/report.h"
#include "clients/bench/report_page.h"

namespace optserve::bench {

std::string ReportHtml(const std::string& json) {
  // Inside a script element only "<" could end it.
  std::string data;
  for (const char c : json) {
    if (c == '<') {
      data += "\\u003c";
    } else {
      data += c;
    }
  }
  constexpr std::string_view kPlace = "@REPORT@";
  std::string page(kReportPage);
  page.replace(page.find(kPlace), kPlace.size(), data);
  return page;
}

}  // namespace optserve::bench
