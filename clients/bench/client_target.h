#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "clients/bench/explain.h"
#include "clients/bench/load.h"
#include "optserve/client/client.h"

namespace optserve::bench {

// A server that speaks the OpenAI completions protocol (http://, https://) or our gRPC (grpc://), through the client
// library. Nothing is tried again: what failed is counted.
class ClientTarget : public Target {
 public:
  struct Options {
    std::string address;
    std::string api_key = {};
    std::string ca_file = {};          // PEM of the certificates to trust; empty: the system's
    std::string metrics_address = {};  // where to read /metrics; empty: `address`, if that is HTTP
    std::string model = {};            // sent as the request's model; empty: none
    double timeout_seconds = 600.0;    // of a request
    // For servers that know OpenAI's fields and no others: prompts are texts of some as many tokens, and stop tokens
    // end an answer.
    bool plain = false;
  };

  // InvalidArgument for an address that is none.
  static absl::StatusOr<std::unique_ptr<ClientTarget>> Make(Options options);

  // Answers are exactly as long as asked for: greedy, and stop tokens do not end them.
  Outcome Complete(const LoadRequest& request, const std::function<void(int num_tokens)>& on_tokens) override;

  // Of the server's /metrics; none where it keeps no account, or cannot be asked.
  std::optional<EngineReading> Read() const;

  // The server's last steps; none where it does not tell of them.
  std::vector<EngineStep> Steps() const;

  // The first model that the server names.
  absl::StatusOr<std::string> ModelName() const;

 private:
  ClientTarget(Options options, std::unique_ptr<client::Client> client, std::unique_ptr<client::Client> metrics)
      : options_(std::move(options)), client_(std::move(client)), metrics_(std::move(metrics)) {}

  const Options options_;
  const std::unique_ptr<client::Client> client_;
  const std::unique_ptr<client::Client> metrics_;  // null: no account can be read
};

// The class of an error: "429 rate_limit_exceeded", "UNAVAILABLE engine_dead", "DEADLINE_EXCEEDED".
std::string ErrorClass(const absl::Status& status);

}  // namespace optserve::bench
