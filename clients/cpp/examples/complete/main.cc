// Goes on with a text, twice: as a stream, and with the log probability of each token.
//
//   complete http://127.0.0.1:8000 "Call me Ishmael."
//   complete grpc://127.0.0.1:8001 "Call me Ishmael."

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>

#include "optserve/client/client.h"
#include "optserve/client/error_info.h"

namespace {

namespace client = optserve::client;
using optserve::v1::CompletionEvent;
using optserve::v1::CompletionRequest;
using optserve::v1::TokenScore;

int Fail(const absl::Status& status) {
  std::cerr << "complete: " << status.message();
  if (const client::ErrorInfo info = client::ErrorInfoOf(status); !info.code.empty())
    std::cerr << " (" << info.code << ")";
  std::cerr << "\n";
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: complete ADDRESS TEXT; the key, if the server wants one, in OPTSERVE_API_KEY\n";
    return 2;
  }
  const char* key = std::getenv("OPTSERVE_API_KEY");
  const auto server = client::Client::Create({.address = argv[1], .api_key = key == nullptr ? "" : key});
  if (!server.ok()) return Fail(server.status());

  CompletionRequest request;
  request.add_prompt()->set_text(argv[2]);
  request.set_max_tokens(16);
  request.set_temperature(0);

  // A stream is a range of events; its status says how it ended.
  auto stream = (*server)->Stream(request, {.timeout = std::chrono::seconds(60)});
  if (!stream.ok()) return Fail(stream.status());
  std::cout << argv[2];
  for (const CompletionEvent& event : *stream) std::cout << event.choices(0).text() << std::flush;
  std::cout << "\n";
  if (!stream->status().ok()) return Fail(stream->status());

  request.set_logprobs(0);
  const auto answer = (*server)->Complete(request);
  if (!answer.ok()) return Fail(answer.status());
  for (const TokenScore& score : answer->choices(0).logprobs()) {
    std::cout << score.token().logprob() << "\t" << score.token().token() << "\n";
  }
  std::cout << answer->usage().completion_tokens() << " tokens\n";
  return 0;
}
