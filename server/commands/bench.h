#pragma once

#include <string>
#include <vector>

#include "clients/bench/session.h"
#include "engine/tools/bench_kernels.h"
#include "server/server_config.h"

namespace optserve {

// Where a report goes; empty: nowhere.
struct BenchOutputs {
  std::string json;
  std::string csv;
  std::string html;
};

// Whom `bench serve` asks.
struct BenchServer {
  std::string address = "http://127.0.0.1:8000";  // or grpc://
  std::string api_key;
  std::string ca_file;          // PEM of the certificates to trust; empty: the system's
  std::string metrics_address;  // of a server that is asked by gRPC: where its /metrics are
  std::string model;            // sent with each request; ours needs none
  double timeout_seconds = 600.0;
  bool plain = false;  // sends OpenAI's own fields and no others
};

struct BenchOptions {
  bench::SessionOptions session;
  BenchServer server;
  BenchOutputs outputs;
  std::string command;   // as it was typed
  bool no_roof = false;  // does not measure what this machine can do
};

// `optserve bench serve`: a server, ours or another, through the client library. Prints a report. Returns the exit
// code.
int BenchServe(BenchOptions options);

// `optserve bench offline MODEL`: the engine in this process under a load, no sockets. Prints a report. Returns the
// exit code.
int BenchOffline(const ServerConfig& config, BenchOptions options);

// `optserve bench kernels`: kernels alone, without a load. Prints a report, as JSON if asked, and writes the outputs.
// Returns the exit code.
int BenchKernels(const KernelBenchOptions& kernels, bool print_json, const BenchOptions& options);

// `optserve bench compare A.json B.json`.
int BenchCompare(const std::string& file_a, const std::string& file_b, bool json);

}  // namespace optserve
