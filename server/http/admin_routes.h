#pragma once

#include "server/http/routes.h"

// The routes that are answered from memory or from the request alone.

namespace optserve {

HttpResponse Livez(const RouteCall& call);
HttpResponse Readyz(const RouteCall& call);
HttpResponse MetricsText(const RouteCall& call);
HttpResponse Version(const RouteCall& call);
HttpResponse OpenApi(const RouteCall& call);
HttpResponse Models(const RouteCall& call);
HttpResponse Capabilities(const RouteCall& call);
HttpResponse DebugSteps(const RouteCall& call);
HttpResponse Tokenize(const RouteCall& call);
HttpResponse Detokenize(const RouteCall& call);
HttpResponse TokenizerInfo(const RouteCall& call);
HttpResponse ChatIsNotSupported(const RouteCall& call);

}  // namespace optserve
