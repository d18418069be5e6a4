#include "server/api/field_schema.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

namespace optserve {
namespace {

using Json = nlohmann::json;

Json SchemaOf(std::string_view name) {
  std::string json;
  AppendFieldSchema(json, *FindCompletionField(name));
  return Json::parse(json);
}

TEST(FieldSchemaTest, BoundsAndDefaultsAreTheTables) {
  EXPECT_EQ(SchemaOf("temperature").at("type"), Json::parse(R"(["number","null"])"));
  EXPECT_EQ(SchemaOf("temperature").at("minimum"), 0);
  EXPECT_EQ(SchemaOf("temperature").at("maximum"), 2);
  EXPECT_EQ(SchemaOf("temperature").at("default"), 1);
  EXPECT_EQ(SchemaOf("top_p").at("exclusiveMinimum"), 0);
  EXPECT_FALSE(SchemaOf("top_p").contains("minimum"));
  EXPECT_EQ(SchemaOf("n").at("maximum"), 128);
  EXPECT_EQ(SchemaOf("seed").at("minimum"), INT64_MIN);
  EXPECT_EQ(SchemaOf("seed").at("default"), nullptr);
  EXPECT_EQ(SchemaOf("stop").at("anyOf")[1].at("maxItems"), 16);
  EXPECT_EQ(SchemaOf("logit_bias").at("additionalProperties").at("minimum"), -100);
  EXPECT_TRUE(SchemaOf("stream_options").at("properties").contains("include_usage"));
  EXPECT_EQ(SchemaOf("suffix").at("type"), "null");
}

TEST(FieldSchemaTest, CapabilitiesNameEveryFieldThatIsHonoured) {
  const Json json = Json::parse(EncodeCapabilities("1.2.3", "m", {{{"max_model_len", 1024}, {"max_choices", 256}}}));
  EXPECT_EQ(json.at("model"), "m");
  EXPECT_EQ(json.at("limits").dump(), R"({"max_choices":256,"max_model_len":1024})");
  for (const CompletionField& field : CompletionFields()) {
    EXPECT_EQ(json.at("fields").contains(field.name), field.name != "suffix") << field.name;
  }
}

// Every "$ref" anywhere in `json`.
void CollectRefs(const Json& json, std::set<std::string>& refs) {
  if (json.is_object() && json.contains("$ref")) refs.insert(json["$ref"].get<std::string>());
  if (json.is_structured()) {
    for (const Json& child : json) CollectRefs(child, refs);
  }
}

TEST(FieldSchemaTest, TheOpenApiDocumentIsWholeAndHasEveryField) {
  const Json json = Json::parse(OpenApiDocument("1.2.3"));
  EXPECT_EQ(json.at("openapi"), "3.1.0");
  EXPECT_EQ(json.at("info").at("version"), "1.2.3");
  const Json& properties = json.at("components").at("schemas").at("CompletionRequest").at("properties");
  EXPECT_EQ(properties.size(), CompletionFields().size());
  for (const CompletionField& field : CompletionFields()) EXPECT_EQ(properties.at(field.name), SchemaOf(field.name));
  std::set<std::string> refs;
  CollectRefs(json, refs);
  EXPECT_GT(refs.size(), 10u);
  for (const std::string& ref : refs) {
    ASSERT_TRUE(ref.starts_with("#")) << ref;
    EXPECT_TRUE(json.contains(Json::json_pointer(ref.substr(1)))) << ref;
  }
}

}  // namespace
}  // namespace optserve
