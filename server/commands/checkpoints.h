#pragma once

#include <cstdint>
#include <string>

namespace optserve {

// What is done with a model's files without running the model. Each returns the exit code.

struct InspectOptions {
  std::string model;         // as everywhere
  std::string model_config;  // a config.json instead of the model's; empty: that
  bool json = false;
};

// `optserve inspect`: prints what is in a checkpoint.
int Inspect(const InspectOptions& options);

struct VerifyCommandOptions {
  std::string model;
  std::string model_config;
  std::string checksums;  // a file; empty: none
};

// `optserve verify`: prints every problem that a model has, one a line, on standard error; exit code 2 if there is one.
int Verify(const VerifyCommandOptions& options);

struct ConvertCommandOptions {
  std::string source;  // a model
  std::string target;  // a directory
  std::string model_config;
  std::string tokenizer;             // a directory; empty: the source's
  std::string max_shard_size;        // empty: 5GB
  int32_t tensor_parallel_size = 0;  // 0: as Hugging Face keeps it, not a file for each rank
  std::string dtype = "auto";        // auto: as stored
};

// `optserve convert`: writes a model of any format as Hugging Face keeps it, or cut for tensor parallelism. Run again
// after being killed, it goes on.
int Convert(const ConvertCommandOptions& options);

}  // namespace optserve
