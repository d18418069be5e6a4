#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "clients/cpp/transport.h"
#include "optserve/client/client.h"

namespace optserve::client {
namespace {

struct Case {
  const char* text;
  Address expected;
};

class GoodAddressTest : public ::testing::TestWithParam<Case> {};

TEST_P(GoodAddressTest, IsTakenApart) {
  const absl::StatusOr<Address> address = ParseAddress(GetParam().text);
  ASSERT_TRUE(address.ok()) << address.status();
  const Address& expected = GetParam().expected;
  EXPECT_EQ(address->is_grpc, expected.is_grpc);
  EXPECT_EQ(address->has_tls, expected.has_tls);
  EXPECT_EQ(address->host, expected.host);
  EXPECT_EQ(address->port, expected.port);
  EXPECT_EQ(address->path, expected.path);
}

INSTANTIATE_TEST_SUITE_P(
    All, GoodAddressTest,
    ::testing::Values(Case{"http://127.0.0.1:8000", {false, false, "127.0.0.1", "8000", ""}},
                      Case{"http://localhost", {false, false, "localhost", "80", ""}},
                      Case{"https://models.example/opt/", {false, true, "models.example", "443", "/opt"}},
                      Case{"http://localhost:8000/v1", {false, false, "localhost", "8000", ""}},
                      Case{"http://localhost:8000/opt/v1/", {false, false, "localhost", "8000", "/opt"}},
                      Case{"http://[::1]:8000", {false, false, "::1", "8000", ""}},
                      Case{"https://[::1]", {false, true, "::1", "443", ""}},
                      Case{"grpc://localhost:8001", {true, false, "localhost", "8001", ""}},
                      Case{"grpcs://[::1]:8001", {true, true, "::1", "8001", ""}}));

class BadAddressTest : public ::testing::TestWithParam<const char*> {};

TEST_P(BadAddressTest, IsRefused) {
  const absl::Status status = Client::Create({.address = GetParam()}).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("write http://HOST:PORT"));
}

INSTANTIATE_TEST_SUITE_P(All, BadAddressTest,
                         ::testing::Values("", "localhost:8000", "ftp://localhost", "http://", "http://:8000",
                                           "http://localhost:0", "http://localhost:65536", "http://localhost:80a",
                                           "http://localhost:", "grpc://localhost", "grpc://localhost:1/path",
                                           "http://::1:8000", "http://[::1", "http://[::1]x:80", "http://a b",
                                           "http://user@host", "http://host/?q", "http://host\r\nX: y",
                                           "http://h\xC3\xA4"));

TEST(ClientOptionsTest, AFileOfAuthoritiesMustBeOne) {
  for (const char* address : {"https://localhost:1", "grpcs://localhost:1"}) {
    for (const char* file : {"/no/such/file", "CMakeLists.txt"}) {
      const absl::Status status = Client::Create({.address = address, .tls = {.ca_file = file}}).status();
      EXPECT_TRUE(absl::IsInvalidArgument(status)) << address << " " << file << " " << status;
    }
  }
}

}  // namespace
}  // namespace optserve::client
