#pragma once

namespace optserve::bench {

// The page of a report: draws the JSON that stands in it in place of @REPORT@.
extern const char kReportPage[];

}  // namespace optserve::bench
