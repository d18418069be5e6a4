#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/opt_config.h"
#include "kernels/common/tensor.h"

namespace optserve {

// What is in a model directory, from headers and config.json alone: no weight is read.
struct ModelReport {
  struct Tensor {
    std::string name;
    DType dtype = DType::kF32;
    std::vector<int64_t> shape;
    std::string file;
  };
  // What each rank of a tensor-parallel group holds.
  struct Rank {
    int32_t tensor_parallel_size = 1;
    int64_t weight_bytes = 0;        // of the fullest rank
    int64_t kv_bytes_per_token = 0;  // f32, as on the CPU
  };

  std::string format;
  std::string source;  // the file that stands for all
  OptConfig config;
  int64_t total_bytes = 0;     // of all that is stored
  int64_t num_parameters = 0;  // tied ones once
  std::vector<Tensor> tensors;
  std::vector<Rank> ranks;  // for every size that divides the model
};

// Errors as those of starting the engine with it.
absl::StatusOr<ModelReport> InspectModel(const std::string& model_directory, const std::string& config_file = "");

std::string ReportText(const ModelReport& report);
std::string ReportJson(const ModelReport& report);

}  // namespace optserve
