#include "server/http/page_routes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "engine/util/status.h"
#include "tests/server/http/test_server.h"

namespace optserve {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

size_t CountOf(std::string_view part, std::string_view text) {
  size_t count = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

WireResponse GetWith(int port, std::string_view path, std::string_view fields, std::string_view method = "GET") {
  HttpClient client(port);
  client.Send(std::string(method) + " " + std::string(path) + " HTTP/1.1\r\nHost: a\r\n" + std::string(fields) +
              "\r\n");
  WireResponse response = client.Receive(method == "HEAD");
  EXPECT_TRUE(client.received().empty());  // nothing behind the end
  return response;
}

TEST(PageTest, StyleAndScriptAreInItAndAllowedByTheirHashes) {
  const Page page = MakePage({.html = "<head><!-- style --></head><p>Hello</p><!-- script -->",
                              .style = "body { margin: 0 }",
                              .script = "show(1);"});
  EXPECT_EQ(page.html,
            "<head><style>body { margin: 0 }</style></head><p>Hello</p><script type=\"module\">show(1);</script>");
  // printf 'show(1);' | openssl dgst -sha256 -binary | base64
  EXPECT_THAT(page.policy, HasSubstr("script-src 'sha256-rGrvemjZiCytJ5/XJUF5xyVdYoIL+zyQitHfTCqVbBM=';"));
  EXPECT_THAT(page.policy, HasSubstr("style-src 'sha256-mX+s7KJgWpgxJola85xdpAFPBQaV091gzM2oPjgTW2w=';"));
}

TEST(PageTest, ThePolicyShutsThePageIn) {
  const std::string policy = MakePage({}).policy;
  for (const char* rule : {"default-src 'none'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'",
                           "frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'"}) {
    EXPECT_THAT(policy, HasSubstr(rule));
  }
  EXPECT_THAT(policy, Not(HasSubstr("unsafe")));
  EXPECT_THAT(policy, Not(HasSubstr("http")));
}

TEST(PageTest, AnotherContentHasAnotherEtag) {
  const Page page = MakePage({.html = "a<!-- style -->", .style = "b", .script = ""});
  EXPECT_EQ(page.etag, MakePage({.html = "a<!-- style -->", .style = "b", .script = ""}).etag);
  EXPECT_NE(page.etag, MakePage({.html = "a<!-- style -->", .style = "c", .script = ""}).etag);
  EXPECT_TRUE(page.etag.starts_with('"') && page.etag.ends_with('"'));
}

TEST(PageTest, ServesThePageUnlessTheClientHasIt) {
  const Page page = MakePage({.html = "a"});
  const std::string& etag = page.etag;
  for (const std::string& same :
       {etag, "W/" + etag, "\"x\", " + etag, "\"x\" ,W/" + etag + ",\"y\"", std::string("*")}) {
    EXPECT_EQ(ServePage(page, same).status, 304) << same;
    EXPECT_EQ(ServePage(page, same).body, "") << same;
  }
  for (const std::string& other : {std::string(), std::string("\"x\""), etag.substr(1), etag + "x", "x" + etag}) {
    EXPECT_EQ(ServePage(page, other).status, 200) << other;
    EXPECT_EQ(ServePage(page, other).body, "a") << other;
  }
}

class PageRouteTest : public ::testing::TestWithParam<const char*> {};

TEST_P(PageRouteTest, IsOnePageThatAsksNobodyElse) {
  TestServer server;
  const WireResponse response = HttpGet(server.port(), GetParam());
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.fields.at("content-type"), "text/html; charset=utf-8");
  EXPECT_EQ(response.fields.at("x-content-type-options"), "nosniff");
  EXPECT_EQ(response.fields.at("referrer-policy"), "no-referrer");
  EXPECT_EQ(response.fields.at("cache-control"), "no-cache");
  EXPECT_THAT(response.fields.at("content-security-policy"), HasSubstr("default-src 'none'"));
  EXPECT_TRUE(response.body.starts_with("<!doctype html>"));
  EXPECT_TRUE(response.body.ends_with("</html>\n"));
  EXPECT_EQ(CountOf("<style>", response.body), 1);
  EXPECT_EQ(CountOf("</style", response.body), 1);
  EXPECT_EQ(CountOf("<script", response.body), 1);
  EXPECT_EQ(CountOf("</script", response.body), 1);  // one inside the script would end it
  EXPECT_EQ(CountOf(" style=", response.body), 0);   // the policy would not let it count
  EXPECT_EQ(CountOf("http://www.w3.org/", response.body), CountOf("http://", response.body));  // names, not addresses
  EXPECT_EQ(CountOf("https://", response.body), 0);
}

TEST_P(PageRouteTest, IsNotSentAgainToWhoHasIt) {
  TestServer server;
  const std::string etag = HttpGet(server.port(), GetParam()).fields.at("etag");
  const WireResponse same = GetWith(server.port(), GetParam(), "If-None-Match: " + etag + "\r\n");
  EXPECT_EQ(same.status, 304);
  EXPECT_EQ(same.fields.at("etag"), etag);
  EXPECT_FALSE(same.fields.contains("content-length"));
  EXPECT_FALSE(same.fields.contains("content-type"));
  EXPECT_EQ(GetWith(server.port(), GetParam(), "If-None-Match: \"old\"\r\n").status, 200);
}

TEST_P(PageRouteTest, HeadHasItsHeader) {
  TestServer server;
  const WireResponse get = HttpGet(server.port(), GetParam());
  const WireResponse head = GetWith(server.port(), GetParam(), "", "HEAD");
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.fields.at("content-length"), std::to_string(get.body.size()));
  EXPECT_EQ(head.fields.at("etag"), get.fields.at("etag"));
  EXPECT_EQ(GetWith(server.port(), GetParam(), "Content-Length: 0\r\n", "POST").status, 405);
}

// Who has no key can read the page and put one in; what the page asks for still wants it.
TEST_P(PageRouteTest, NeedsNoKeyAndNoModel) {
  TestServer::Setup setup;
  setup.loaded = false;
  setup.http.probes_need_key = true;
  setup.http.authorize = [](std::string_view, std::string_view) -> absl::StatusOr<std::string> {
    return absl::UnauthenticatedError("no key");
  };
  TestServer server(std::move(setup));
  EXPECT_EQ(HttpGet(server.port(), GetParam()).status, 200);
  EXPECT_EQ(HttpGet(server.port(), "/v1/capabilities").status, 401);
  EXPECT_EQ(HttpPost(server.port(), "/v1/completions", R"({"prompt":[5]})").status, 401);
}

INSTANTIATE_TEST_SUITE_P(Pages, PageRouteTest, ::testing::Values("/", "/docs"),
                         [](const auto& info) { return std::string(info.param) == "/" ? "Playground" : "Docs"; });

}  // namespace
}  // namespace optserve
