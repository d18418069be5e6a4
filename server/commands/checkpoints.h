#pragma once

#include <string>

namespace optserve {

// What is done with a model's files without running the model. Each returns the exit code.

struct InspectOptions {
  std::string model;  // as everywhere
  bool json = false;
};

// `optserve inspect`: prints what is in a checkpoint.
int Inspect(const InspectOptions& options);

struct VerifyCommandOptions {
  std::string model;
  std::string checksums;  // a file; empty: none
};

// `optserve verify`: prints every problem that a model has, one a line, on standard error; exit code 2 if there is one.
int Verify(const VerifyCommandOptions& options);

}  // namespace optserve
