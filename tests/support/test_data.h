#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace optserve {

// Where a test finds its data, e.g. TestDataPath("golden/tokenizer/decode_vectors.jsonl").
//
// `relative` is looked up in shared/data, beside the checkout, where the whole collection may lie, and then in
// tests/data, where what the tests need is committed. Throws std::runtime_error when it is in neither: a test whose
// data is missing must fail, not pass. OPTSERVE_TEST_ROOT stands for the checkout where there is none:
// tests/gpu/run.sh.
std::filesystem::path TestDataPath(std::string_view relative);

// deploy/demo-model: a real model of 4096 tokens, with its tokenizer.
std::filesystem::path DemoModelPath();

// The whole file at TestDataPath(relative), or at an absolute path.
std::string ReadTestData(const std::filesystem::path& path);

// A file of the checkout, e.g. SourcePath("deploy/demo-model").
std::filesystem::path SourcePath(std::string_view relative);

}  // namespace optserve
