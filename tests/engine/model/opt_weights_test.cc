#include "engine/model/opt_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "engine/checkpoint/mapped_checkpoint.h"
#include "engine/model/sharding.h"
#include "kernels/backend.h"

namespace optserve {
namespace {

using testing::HasSubstr;

OptConfig Tiny() {
  OptConfig config;
  config.num_layers = 2;
  config.hidden_size = 4;
  config.num_heads = 2;
  config.ffn_size = 6;
  config.vocab_size = 5;
  config.max_positions = 3;
  config.embed_size = 4;
  return config;
}

// A checkpoint in memory: f32 tensors whose elements are numbered from 0.
class FakeCheckpoint {
 public:
  explicit FakeCheckpoint(std::string prefix = "model.decoder.") : prefix_(std::move(prefix)) {}

  void Add(const std::string& name, int64_t rows, int64_t columns) {
    std::vector<float>& values = storage_.emplace_back(rows * columns);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
    const TensorView view =
        columns == 1 ? MakeView(values.data(), DType::kF32, rows) : MakeView(values.data(), DType::kF32, rows, columns);
    checkpoint_->Add({.name = name, .view = view, .tiles = {}, .file = "file"});
  }

  // All tensors that `config` needs, but those whose name contains `without`.
  void AddModel(const OptConfig& config, const std::string& without = "/") {
    const auto add = [&](const std::string& name, const TensorSpec& spec) {
      if (name.find(without) == std::string::npos) {
        Add(name, SizeOfDim(config, spec.rows), spec.columns == Dim::kNone ? 1 : SizeOfDim(config, spec.columns));
      }
    };
    for (const TensorSpec& spec : ModelTensors()) {
      if (spec.presence == Presence::kUntied || spec.presence == Presence::kWithProjections) continue;
      add(prefix_ + spec.name, spec);
    }
    for (int layer = 0; layer < config.num_layers; ++layer) {
      for (const TensorSpec& spec : LayerTensors()) {
        add(prefix_ + "layers." + std::to_string(layer) + "." + spec.name, spec);
      }
    }
  }

  const Checkpoint& Finish() {
    EXPECT_TRUE(checkpoint_->Finish().ok());
    return *checkpoint_;
  }

 private:
  std::string prefix_;
  std::vector<std::vector<float>> storage_;
  std::unique_ptr<MappedCheckpoint> checkpoint_ = std::make_unique<MappedCheckpoint>("fake", "weights");
};

std::string ErrorOf(const OptConfig& config, const Checkpoint& checkpoint) {
  return std::string(OptTensors::Match(config, checkpoint).status().message());
}

TEST(OptTensorsTest, EveryPrefixIsKnown) {
  for (const char* prefix : {"model.decoder.", "decoder.", ""}) {
    FakeCheckpoint fake(prefix);
    fake.AddModel(Tiny());
    const absl::StatusOr<OptTensors> tensors = OptTensors::Match(Tiny(), fake.Finish());
    ASSERT_TRUE(tensors.ok()) << tensors.status();
    EXPECT_EQ(tensors->num_parameters(), 5 * 4 + 5 * 4 + 8 + 2 * (4 * 20 + 2 * 24 + 10 + 16));
    EXPECT_EQ(tensors->num_bytes(), 4 * tensors->num_parameters());
  }
}

TEST(OptTensorsTest, ListsWhatIsMissingExtraAndOfTheWrongShape) {
  FakeCheckpoint fake;
  fake.AddModel(Tiny(), "fc2.weight");
  fake.Add("model.decoder.layers.0.fc2.weight", 6, 4);
  fake.Add("model.decoder.layers.2.fc2.weight", 4, 6);
  const std::string message = ErrorOf(Tiny(), fake.Finish());
  EXPECT_THAT(message, HasSubstr("layers.0.fc2.weight has shape [6, 4], config.json needs [4, 6]"));
  EXPECT_THAT(message, HasSubstr("weights: tensor model.decoder.layers.1.fc2.weight is missing"));
  EXPECT_THAT(message, HasSubstr("layers.2.fc2.weight is none of this model's"));
}

TEST(OptTensorsTest, AModelHasAllBiasesOrNone) {
  OptConfig config = Tiny();
  FakeCheckpoint none;
  none.AddModel(config, "bias");
  // Norms keep their weights, and so must have biases: those of the products alone may go.
  EXPECT_THAT(ErrorOf(config, none.Finish()), HasSubstr("layer_norm.bias is missing"));

  FakeCheckpoint without_linear_bias;
  without_linear_bias.AddModel(config, "proj.bias");
  EXPECT_THAT(ErrorOf(config, without_linear_bias.Finish()), HasSubstr("q_proj.bias is missing"));
}

TEST(OptTensorsTest, TiedHeadsAndVersionsAreIgnored) {
  FakeCheckpoint fake;
  fake.AddModel(Tiny());
  fake.Add("lm_head.weight", 5, 4);
  fake.Add("model.decoder.version", 1, 1);
  const Checkpoint& checkpoint = fake.Finish();
  EXPECT_EQ(ErrorOf(Tiny(), checkpoint), "");
  OptConfig untied = Tiny();
  untied.tied_embeddings = false;
  EXPECT_EQ(ErrorOf(untied, checkpoint), "");
}

TEST(OptTensorsTest, AnUntiedHeadMustBeThere) {
  FakeCheckpoint fake;
  fake.AddModel(Tiny());
  OptConfig untied = Tiny();
  untied.tied_embeddings = false;
  EXPECT_THAT(ErrorOf(untied, fake.Finish()), HasSubstr("lm_head.weight is missing"));
}

TEST(OptWeightsTest, TheCpuUsesTheMappedBytes) {
  FakeCheckpoint fake;
  fake.AddModel(Tiny());
  const Checkpoint& checkpoint = fake.Finish();
  const OptTensors tensors = *OptTensors::Match(Tiny(), checkpoint);
  const std::unique_ptr<Backend> backend = *MakeBackend({.num_threads = 1});
  const OptWeights weights = *LoadOptWeights(Tiny(), tensors, {.rank = 1, .size = 2}, *backend);
  const auto stored = [&](const char* name) {
    return checkpoint.Find(std::string("model.decoder.layers.1.") + name)->view;
  };
  EXPECT_EQ(weights.layers[1].q.weight.data, stored("self_attn.q_proj.weight").Rows(2, 2).data);
  EXPECT_EQ(weights.layers[1].q.bias.data, stored("self_attn.q_proj.bias").Rows(2, 2).data);
  EXPECT_EQ(weights.layers[1].fc2.weight.data, stored("fc2.weight").Columns(3, 3).data);
  EXPECT_EQ(weights.layers[1].fc2.weight.row_stride, 6);
  EXPECT_EQ(weights.layers[1].fc2.bias.data, stored("fc2.bias").data);
  EXPECT_EQ(weights.vocab.first, 3);
  EXPECT_EQ(weights.embed_tokens.dims[0], 2);
  EXPECT_EQ(weights.lm_head.data, weights.embed_tokens.data);
}

// Made of shapes alone: the same tensors in the same places as from a checkpoint of the same model.
TEST(OptWeightsTest, MadeWeightsHaveTheShapesOfLoadedOnes) {
  const Shard shard{.rank = 1, .size = 2};
  FakeCheckpoint fake;
  fake.AddModel(Tiny());
  const OptTensors tensors = *OptTensors::Match(Tiny(), fake.Finish());
  const std::unique_ptr<Backend> backend = *MakeBackend({.num_threads = 1});
  const OptWeights loaded = *LoadOptWeights(Tiny(), tensors, shard, *backend);
  std::vector<std::unique_ptr<Buffer>> memory;
  const OptWeights made = *MakeOptWeights(Tiny(), shard, [&](TensorView shape) -> absl::StatusOr<TensorView> {
    memory.push_back(*backend->Allocate(shape.num_bytes()));
    shape.data = memory.back()->data();
    return shape;
  });
  const auto expect_same = [](const TensorView& a, const TensorView& b) {
    EXPECT_EQ(a.rank, b.rank);
    EXPECT_EQ(a.dims, b.dims);
    EXPECT_EQ(a.empty(), b.empty());
    EXPECT_EQ(a.dtype, a.empty() || a.rank == 1 ? DType::kF32 : DType::kF16);
  };
  expect_same(made.embed_tokens, loaded.embed_tokens);
  expect_same(made.embed_positions, loaded.embed_positions);
  expect_same(made.project_in, loaded.project_in);
  expect_same(made.final_norm.weight, loaded.final_norm.weight);
  ASSERT_EQ(made.layers.size(), loaded.layers.size());
  for (size_t i = 0; i < made.layers.size(); ++i) {
    expect_same(made.layers[i].attn_norm.bias, loaded.layers[i].attn_norm.bias);
    for (const auto linear : {&LayerWeights::q, &LayerWeights::k, &LayerWeights::v, &LayerWeights::out,
                              &LayerWeights::fc1, &LayerWeights::fc2}) {
      expect_same((made.layers[i].*linear).weight, (loaded.layers[i].*linear).weight);
      expect_same((made.layers[i].*linear).bias, (loaded.layers[i].*linear).bias);
    }
  }
  EXPECT_EQ(made.vocab.first, loaded.vocab.first);
  EXPECT_EQ(made.lm_head.data, made.embed_tokens.data);
  EXPECT_THAT(MakeOptWeights(Tiny(), shard, [](const TensorView&) { return absl::ResourceExhaustedError("full"); })
                  .status()
                  .ToString(),
              HasSubstr("full"));
}

}  // namespace
}  // namespace optserve
