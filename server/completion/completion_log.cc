#include "server/completion/completion_log.h"

namespace optserve {

void LogCompletion(const Log* log, const LoggedRequest& request, const LoggedAnswer& answer) {
  if (log == nullptr) return;
  log->Info("completion", {{"request_id", request.request_id},
                           {"trace_id", request.trace_id},
                           {"id", answer.id},
                           {"key", answer.api_key_id},
                           {"protocol", request.protocol},
                           {"status", answer.status},
                           {"seconds", answer.seconds},
                           {"prompt_tokens", answer.usage.prompt_tokens},
                           {"cached_tokens", answer.usage.cached_tokens},
                           {"completion_tokens", answer.usage.completion_tokens}});
}

void LogFailure(const Log* log, const LoggedRequest& request, std::string_view why) {
  if (log == nullptr || why.empty()) return;
  log->Error("request_failed", {{"request_id", request.request_id},
                                {"trace_id", request.trace_id},
                                {"protocol", request.protocol},
                                {"why", why}});
}

}  // namespace optserve
