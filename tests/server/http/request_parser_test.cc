#include "server/http/request_parser.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace optserve {
namespace {

using ::testing::HasSubstr;
using ::testing::Values;

// What a connection does: feeds what has come, `step` bytes at a time, until the parser has had enough.
struct Parsed {
  std::vector<HttpRequest> requests;
  int status = 0;
  std::string message;
};

Parsed Parse(std::string_view bytes, size_t step = 1 << 20, const HttpLimits& limits = {}) {
  Parsed parsed;
  RequestParser parser(limits);
  size_t begin = 0;
  size_t end = 0;
  while (begin < bytes.size()) {
    if (begin == end) end = std::min(end + step, bytes.size());
    begin += parser.Feed(bytes.substr(begin, end - begin));
    if (parser.failed()) return {parsed.requests, parser.status(), parser.message()};
    if (parser.done()) parsed.requests.push_back(parser.Take());
  }
  return parsed;
}

std::string Header(std::string_view fields) {
  return std::string("POST /x HTTP/1.1\r\nHost: a\r\n").append(fields) + "\r\n";
}

TEST(RequestParserTest, TakesARequestApart) {
  const Parsed parsed = Parse(
      "POST /v1/completions?a=b HTTP/1.1\r\nHost: localhost:8000\r\nX-Thing:  two  words\t\r\n"
      "Content-Length: 5\r\n\r\nhello");
  ASSERT_EQ(parsed.requests.size(), 1u) << parsed.message;
  const HttpRequest& request = parsed.requests[0];
  EXPECT_EQ(request.method, "POST");
  EXPECT_EQ(request.path, "/v1/completions");
  EXPECT_EQ(request.query, "a=b");
  EXPECT_EQ(request.minor_version, 1);
  EXPECT_EQ(request.Field("x-thing"), "two  words");
  EXPECT_EQ(request.Field("x-other"), "");
  EXPECT_EQ(request.body, "hello");
  EXPECT_TRUE(request.keep_alive);
}

TEST(RequestParserTest, PiecesOfAnySizeMakeTheSameRequests) {
  const std::string bytes =
      "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
      "\r\nPOST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
      "5\r\nhello\r\n00000006;name=\"value\"\r\n world\r\n0\r\nTrailer: dropped\r\n\r\n"
      "POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nend";
  for (const size_t step : {1u, 2u, 3u, 7u, 50u, 1000u}) {
    const Parsed parsed = Parse(bytes, step);
    ASSERT_EQ(parsed.requests.size(), 3u) << step << ": " << parsed.message;
    EXPECT_EQ(parsed.requests[0].path, "/livez");
    EXPECT_EQ(parsed.requests[1].body, "hello world");
    EXPECT_EQ(parsed.requests[1].Field("trailer"), "");
    EXPECT_EQ(parsed.requests[2].body, "end");
  }
}

TEST(RequestParserTest, StopsAtTheEndOfTheHeaderSoThatItCanBeRefused) {
  const std::string bytes = Header("Content-Length: 3\r\n") + "abc";
  const HttpLimits limits;
  RequestParser parser(limits);
  EXPECT_EQ(parser.Feed(bytes), bytes.size() - 3);
  EXPECT_TRUE(parser.header_done());
  EXPECT_FALSE(parser.done());
  EXPECT_EQ(parser.content_length(), 3u);
}

TEST(RequestParserTest, KeepAliveIsWhatVersionAndConnectionSay) {
  const auto keep_alive = [](std::string_view version, std::string_view fields) {
    const std::string bytes = std::string("GET / ").append(version) + "\r\nHost: a\r\n" + std::string(fields) + "\r\n";
    const Parsed parsed = Parse(bytes);
    EXPECT_EQ(parsed.requests.size(), 1u) << parsed.message;
    return !parsed.requests.empty() && parsed.requests[0].keep_alive;
  };
  EXPECT_TRUE(keep_alive("HTTP/1.1", ""));
  EXPECT_FALSE(keep_alive("HTTP/1.1", "Connection: Close\r\n"));
  EXPECT_FALSE(keep_alive("HTTP/1.1", "Connection: keep-alive, close\r\n"));
  EXPECT_FALSE(keep_alive("HTTP/1.1", "Connection: close\r\nConnection: keep-alive\r\n"));
  EXPECT_FALSE(keep_alive("HTTP/1.0", ""));
  EXPECT_TRUE(keep_alive("HTTP/1.0", "Connection: Keep-Alive\r\n"));
}

TEST(RequestParserTest, TargetMayBeAbsolute) {
  EXPECT_EQ(Parse("GET http://example.org:80/a?b HTTP/1.1\r\nHost: a\r\n\r\n").requests.at(0).path, "/a");
  EXPECT_EQ(Parse("GET http://example.org?b HTTP/1.1\r\nHost: a\r\n\r\n").requests.at(0).path, "/");
  EXPECT_EQ(Parse("GET http://example.org?b HTTP/1.1\r\nHost: a\r\n\r\n").requests.at(0).query, "b");
}

TEST(RequestParserTest, ExpectationIsReported) {
  EXPECT_TRUE(Parse(Header("Expect: 100-Continue\r\nContent-Length: 0\r\n")).requests.at(0).expects_continue);
  EXPECT_FALSE(Parse(Header("")).requests.at(0).expects_continue);
}

TEST(RequestParserTest, ManyChunksOfOneByteAreOneBody) {
  std::string bytes = Header("Transfer-Encoding: chunked\r\n");
  for (int i = 0; i < 65'537; ++i) bytes += "1\r\nx\r\n";
  bytes += "0\r\n\r\n";
  EXPECT_EQ(Parse(bytes).requests.at(0).body, std::string(65'537, 'x'));
  EXPECT_EQ(Parse(bytes, 5).requests.at(0).body, std::string(65'537, 'x'));
}

// What a proxy could read differently, or what no client may send.
struct BadCase {
  const char* name;
  std::string bytes;
  int status;
};
void PrintTo(const BadCase& c, std::ostream* out) { *out << c.name; }

class BadRequestTest : public testing::TestWithParam<BadCase> {};

TEST_P(BadRequestTest, IsRefused) {
  for (const size_t step : {1u, 1000u}) {
    const Parsed parsed = Parse(GetParam().bytes, step);
    EXPECT_EQ(parsed.status, GetParam().status) << parsed.message;
    EXPECT_TRUE(parsed.requests.empty());
    EXPECT_FALSE(parsed.message.empty());
  }
}

std::string Chunked(std::string_view body) { return Header("Transfer-Encoding: chunked\r\n").append(body); }
std::string RequestLine(std::string_view line) { return std::string(line) + "\r\nHost: a\r\n\r\n"; }

INSTANTIATE_TEST_SUITE_P(
    RequestParser, BadRequestTest,
    Values(
        // Where does the body end?
        BadCase{"TwoContentLengths", Header("Content-Length: 1\r\nContent-Length: 2\r\n"), 400},
        BadCase{"TwoEqualContentLengths", Header("Content-Length: 1\r\nContent-Length: 1\r\n"), 400},
        BadCase{"ContentLengthList", Header("Content-Length: 1, 1\r\n"), 400},
        BadCase{"ContentLengthSigned", Header("Content-Length: +1\r\n"), 400},
        BadCase{"ContentLengthNegative", Header("Content-Length: -1\r\n"), 400},
        BadCase{"ContentLengthHex", Header("Content-Length: 0x1\r\n"), 400},
        BadCase{"ContentLengthEmpty", Header("Content-Length:\r\n"), 400},
        BadCase{"ContentLengthOverflow", Header("Content-Length: 18446744073709551617\r\n"), 400},
        BadCase{"ContentLengthInner", Header("Content-Length: 1 1\r\n"), 400},
        BadCase{"LengthThenChunked", Header("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), 400},
        BadCase{"ChunkedThenLength", Header("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n"), 400},
        BadCase{"TwoTransferEncodings", Header("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 400},
        BadCase{"ChunkedThenIdentity", Header("Transfer-Encoding: chunked, identity\r\n"), 501},
        BadCase{"GzipChunked", Header("Transfer-Encoding: gzip, chunked\r\n"), 501},
        BadCase{"ChunkedWithVerticalTab", Header("Transfer-Encoding: \vchunked\r\n"), 400},
        BadCase{"ChunkedQuoted", Header("Transfer-Encoding: \"chunked\"\r\n"), 501},
        BadCase{"ChunkedInVersion10", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
        BadCase{"ChunkSizeEmpty", Chunked("\r\n"), 400}, BadCase{"ChunkSizeSigned", Chunked("+1\r\nx\r\n"), 400},
        BadCase{"ChunkSizeNegative", Chunked("-1\r\nx\r\n"), 400},
        BadCase{"ChunkSizePrefixed", Chunked("0x1\r\nx\r\n"), 400},
        BadCase{"ChunkSizeSpaced", Chunked("1 \r\nx\r\n"), 400},
        BadCase{"ChunkSizeLong", Chunked("000000001\r\nx\r\n"), 400},
        BadCase{"ChunkSizeOverflow", Chunked("FFFFFFFFFFFFFFFFF\r\nx\r\n"), 400},
        BadCase{"ChunkSizeBareLf", Chunked("1\nx\r\n"), 400},
        BadCase{"ChunkTooShort", Chunked("2\r\nx\r\n0\r\n\r\n"), 400},
        BadCase{"ChunkTooLong", Chunked("1\r\nxx\r\n"), 400}, BadCase{"ChunkEndBareLf", Chunked("1\r\nx\n"), 400},
        BadCase{"ChunkExtensionControl", Chunked("1;a=\rb\r\nx\r\n"), 400},
        BadCase{"ChunkExtensionLong", Chunked("1;" + std::string(300, 'a') + "\r\nx\r\n"), 400},
        BadCase{"TrailerBareLf", Chunked("0\r\nA: b\n\r\n"), 400},
        // Where does a line or a field end?
        BadCase{"BareLf", "GET / HTTP/1.1\nHost: a\n\n", 400},
        BadCase{"BareLfInFields", "GET / HTTP/1.1\r\nHost: a\nContent-Length: 1\r\n\r\n", 400},
        BadCase{"BareCr", "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", 400},
        BadCase{"ObsoleteFolding", Header("X: a\r\n b\r\n"), 400},
        BadCase{"FoldingWithTab", Header("X: a\r\n\tb\r\n"), 400},
        BadCase{"FoldedFirstField", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400},
        BadCase{"SpaceBeforeColon", Header("Content-Length : 1\r\n"), 400},
        BadCase{"NoColon", Header("Hello\r\n"), 400}, BadCase{"EmptyName", Header(": a\r\n"), 400},
        BadCase{"NulInValue", Header(std::string_view("X: a\0b\r\n", 8)), 400},
        BadCase{"NulInName", Header(std::string_view("X\0: a\r\n", 7)), 400},
        BadCase{"NonAsciiName", Header("X\xc3\xa4: a\r\n"), 400}, BadCase{"DeleteInValue", Header("X: a\x7f\r\n"), 400},
        // Who is asked?
        BadCase{"NoHost", "GET / HTTP/1.1\r\n\r\n", 400}, BadCase{"TwoHosts", Header("Host: b\r\n"), 400},
        BadCase{"HostWithPath", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400},
        BadCase{"HostWithUser", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400},
        BadCase{"HostWithSpace", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400},
        BadCase{"HostList", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400},
        BadCase{"HostPortWord", "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400},
        BadCase{"HostPortLong", "GET / HTTP/1.1\r\nHost: a:123456\r\n\r\n", 400},
        BadCase{"HostBracketOpen", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400},
        BadCase{"AbsoluteWithoutHost", RequestLine("GET http:///a HTTP/1.1"), 400},
        // The request line.
        BadCase{"Tls", std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 9), 400},
        BadCase{"TwoWords", RequestLine("GET /"), 400}, BadCase{"DoubleSpace", RequestLine("GET  / HTTP/1.1"), 400},
        BadCase{"SpaceInTarget", RequestLine("GET /a b HTTP/1.1"), 400},
        BadCase{"TrailingSpace", RequestLine("GET / HTTP/1.1 "), 400},
        BadCase{"LeadingSpace", RequestLine(" GET / HTTP/1.1"), 400},
        BadCase{"TabAsSpace", RequestLine("GET\t/\tHTTP/1.1"), 400},
        BadCase{"Fragment", RequestLine("GET /#a HTTP/1.1"), 400},
        BadCase{"RawUtf8Target", RequestLine("GET /\xc3\xa4 HTTP/1.1"), 400},
        BadCase{"RelativeTarget", RequestLine("GET a HTTP/1.1"), 400},
        BadCase{"HttpsTarget", RequestLine("GET https://a/ HTTP/1.1"), 400},
        BadCase{"Authority", RequestLine("CONNECT a:80 HTTP/1.1"), 400},
        BadCase{"MethodNotAWord", RequestLine("GE[T / HTTP/1.1"), 400},
        BadCase{"LowerCaseVersion", RequestLine("GET / http/1.1"), 400},
        BadCase{"Version09", RequestLine("GET / HTTP/0.9"), 505},
        BadCase{"Version12", RequestLine("GET / HTTP/1.2"), 505},
        BadCase{"Http2Preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
        BadCase{"VersionLong", RequestLine("GET / HTTP/1.10"), 400},
        BadCase{"EmptyLinesForEver", std::string(40, '\r').replace(1, 39, "\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n"), 400},
        BadCase{"UnknownExpectation", Header("Expect: 200-ok\r\n"), 417},
        // Limits.
        BadCase{"LongTarget", RequestLine("GET /" + std::string(8200, 'a') + " HTTP/1.1"), 414},
        BadCase{"EndlessTarget", "GET /" + std::string(20'000, 'a'), 414},
        BadCase{"LongField", Header("X: " + std::string(17'000, 'a') + "\r\n"), 431},
        BadCase{"EndlessField", "GET / HTTP/1.1\r\nX: " + std::string(17'000, 'a'), 431},
        BadCase{"LongBody", Header("Content-Length: 16777217\r\n"), 413},
        BadCase{"LongChunk", Chunked("1000001\r\n"), 413}),
    [](const testing::TestParamInfo<BadCase>& info) { return info.param.name; });

TEST(RequestParserTest, HeaderLimitsHold) {
  std::string fields;
  for (int i = 0; i < 99; ++i) fields += "X: y\r\n";
  EXPECT_EQ(Parse(Header(fields)).requests.size(), 1u);  // and Host: 100
  EXPECT_EQ(Parse(Header(fields + "X: y\r\n")).status, 431);
  EXPECT_EQ(Parse(RequestLine("GET /" + std::string(8191, 'a') + " HTTP/1.1")).requests.size(), 1u);
  EXPECT_EQ(Parse(RequestLine("GET /" + std::string(8192, 'a') + " HTTP/1.1")).status, 414);

  std::string trailers = Chunked("0\r\n");
  for (int i = 0; i < 2000; ++i) trailers += "Trailer: something\r\n";
  EXPECT_EQ(Parse(trailers).status, 431);
}

TEST(RequestParserTest, BodyLimitCountsAllChunks) {
  HttpLimits limits;
  limits.body_bytes = 10;
  EXPECT_EQ(Parse(Chunked("5\r\nabcde\r\n5\r\nabcde\r\n0\r\n\r\n"), 100, limits).requests.size(), 1u);
  EXPECT_EQ(Parse(Chunked("5\r\nabcde\r\n6\r\nabcdef\r\n0\r\n\r\n"), 100, limits).status, 413);
}

TEST(RequestParserTest, NothingOfARefusedRequestIsLeftForTheNext) {
  const Parsed parsed =
      Parse(Header("Content-Length: 4\r\nContent-Length: 50\r\n") + "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_EQ(parsed.status, 400);
  EXPECT_TRUE(parsed.requests.empty());
}

// Whatever comes, and however it is cut: the same requests, the same refusal, nothing beyond the limits.
TEST(RequestParserTest, AnyBytesMeanTheSameInPiecesOfAnySize) {
  const std::vector<std::string> seeds = {
      Header("Content-Length: 5\r\nConnection: close\r\n") + "hello",
      Chunked("5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nT: x\r\n\r\n"),
      "GET http://a:80/b?c HTTP/1.1\r\nHost: [::1]:80\r\nExpect: 100-continue\r\n\r\n",
      "GET / HTTP/1.0\r\n\r\nPOST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
  };
  using std::string_literals::operator""s;
  const std::string alphabet = "\r\n \t:;,/0159aAfF-+\0\x7f\xffGETHostchunked"s;
  HttpLimits limits;
  limits.header_bytes = 300;
  limits.target_bytes = 40;
  limits.body_bytes = 64;
  std::mt19937 random(1);
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
  int num_accepted = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string bytes = seeds[below(seeds.size())];
    for (size_t edits = below(4); edits > 0; --edits) {
      const size_t at = below(bytes.size());
      switch (below(4)) {
        case 0:
          bytes[at] = alphabet[below(alphabet.size())];
          break;
        case 1:
          bytes.insert(at, 1, alphabet[below(alphabet.size())]);
          break;
        case 2:
          bytes.erase(at, 1 + below(3));
          break;
        default:
          bytes.insert(at, bytes.substr(below(bytes.size()), below(30)));
      }
      if (bytes.empty()) bytes = "G";
    }
    const Parsed whole = Parse(bytes, bytes.size(), limits);
    for (const size_t step : {size_t{1}, 2 + below(9)}) {
      const Parsed pieces = Parse(bytes, step, limits);
      ASSERT_EQ(pieces.status, whole.status) << testing::PrintToString(bytes);
      ASSERT_EQ(pieces.requests.size(), whole.requests.size()) << testing::PrintToString(bytes);
      for (size_t i = 0; i < whole.requests.size(); ++i) {
        ASSERT_EQ(pieces.requests[i].path, whole.requests[i].path);
        ASSERT_EQ(pieces.requests[i].fields, whole.requests[i].fields);
        ASSERT_EQ(pieces.requests[i].body, whole.requests[i].body);
        ASSERT_LE(pieces.requests[i].body.size(), limits.body_bytes);
      }
    }
    num_accepted += !whole.requests.empty();
  }
  EXPECT_GT(num_accepted, 5'000);
  EXPECT_LT(num_accepted, 19'000);
}

TEST(RequestParserTest, HttpsOnTheHttpPortIsToldSo) {
  EXPECT_THAT(Parse(std::string("\x16\x03\x01", 3)).message, HasSubstr("https"));
}

}  // namespace
}  // namespace optserve
