#pragma once

#include <string>
#include <string_view>

#include "server/http/playground/page_source.h"
#include "server/http/routes.h"

// The pages for people: self-contained, so that they work without any other server, and shut in by their policy: they
// run their own script, talk to this server, and do nothing else. Pure functions; any thread.

namespace optserve {

// A page that is ready to be sent.
struct Page {
  std::string html;
  std::string policy;  // Content-Security-Policy: only this very style and script, by their SHA-256
  std::string etag;    // quoted; of the content
};
Page MakePage(const PageSource& source);

// 200 with the page, or 304 when `if_none_match`, that field of the request, names its etag.
HttpResponse ServePage(const Page& page, std::string_view if_none_match);

HttpResponse Playground(const RouteCall& call);  // GET /
HttpResponse Docs(const RouteCall& call);        // GET /docs

}  // namespace optserve
