#include "engine/checkpoint/pickle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/support/torch_file.h"

namespace optserve {
namespace {

using testing::HasSubstr;

absl::StatusOr<Pickle> Parse(const std::string& bytes) {
  return ParsePickle(std::as_bytes(std::span(bytes.data(), bytes.size())));
}
std::string ErrorOf(const std::string& bytes) { return std::string(Parse(bytes).status().message()); }

TEST(PickleTest, ReadsValues) {
  const std::string bytes = pickle::Whole(pickle::Dict({{"a", pickle::Int(-5)},
                                                        {"b", pickle::Int(int64_t{1} << 40)},
                                                        {"c", pickle::Tuple({pickle::Text("x"), "N", "\x88"})},
                                                        {"d",
                                                         "](K\x07M\x01\x02"
                                                         "e"}}));
  const std::string stream = bytes + "what follows";
  const absl::StatusOr<Pickle> parsed = Parse(stream);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->num_bytes(), bytes.size());
  const PickleValue& dict = parsed->at(parsed->root());
  EXPECT_EQ(parsed->Find(dict, "a")->number, -5);
  EXPECT_EQ(parsed->Find(dict, "b")->number, int64_t{1} << 40);
  const PickleValue& tuple = *parsed->Find(dict, "c");
  ASSERT_EQ(tuple.items.size(), 3);
  EXPECT_EQ(parsed->at(tuple.items[0]).text, "x");
  EXPECT_EQ(parsed->at(tuple.items[1]).kind, PickleKind::kNone);
  EXPECT_EQ(parsed->at(tuple.items[2]).number, 1);
  const PickleValue& list = *parsed->Find(dict, "d");
  ASSERT_EQ(list.items.size(), 2);
  EXPECT_EQ(parsed->at(list.items[1]).number, 0x201);
  EXPECT_EQ(parsed->Find(dict, "e"), nullptr);
}

TEST(PickleTest, NegativeLongsAreSignExtended) {
  const absl::StatusOr<Pickle> parsed = Parse("\x80\x02\x8a\x02\xfe\xff.");
  EXPECT_EQ(parsed->at(parsed->root()).number, -2);
}

TEST(PickleTest, MemosShareValuesAndMayFormCycles) {
  // A list that holds itself: l = [l, l].
  const absl::StatusOr<Pickle> parsed = Parse(
      "\x80\x02]q\x01(h\x01h\x01"
      "e.");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_THAT(parsed->at(parsed->root()).items, testing::ElementsAre(parsed->root(), parsed->root()));
}

TEST(PickleTest, CallsAreRecordsOfTheirArguments) {
  const std::string system = pickle::Call(pickle::Global("posix", "system"), {pickle::Text("echo boo")});
  const std::string bytes = pickle::Whole(system);
  const absl::StatusOr<Pickle> parsed = Parse(bytes);
  ASSERT_TRUE(parsed.ok());
  const PickleValue& call = parsed->at(parsed->root());
  EXPECT_EQ(call.kind, PickleKind::kCall);
  EXPECT_TRUE(parsed->IsGlobal(call.items[0], "posix", "system"));
  EXPECT_EQ(parsed->foreign_global(), "posix.system");
}

TEST(PickleTest, AGlobalIsForeignEvenIfNothingUsesIt) {
  EXPECT_EQ(Parse(pickle::Whole(pickle::Global("torch", "load")))->foreign_global(), "torch.load");
  EXPECT_EQ(Parse(pickle::Whole(pickle::Global("torch", "HalfStorage")))->foreign_global(), "");
}

TEST(PickleTest, StateOfAnUnknownObjectIsIgnoredWithItsCycles) {
  // An omegaconf node: o = Node(); o.__dict__ = {"parent": o}
  const std::string bytes =
      pickle::Whole(pickle::Global("omegaconf", "Node") + ")\x81q\x01}(" + pickle::Text("parent") + "h\x01ub");
  EXPECT_TRUE(Parse(bytes).ok());
}

// Every way that is known to get code past readers that look for it.
TEST(PickleTest, RefusesOpcodesThatTensorsDoNotNeed) {
  for (const std::string& program : std::vector<std::string>{
           std::string("(").append(pickle::Text("x")).append("iposix\nsystem\n"),                             // INST
           std::string("(").append(pickle::Global("posix", "system")).append(pickle::Text("x")).append("o"),  // OBJ
           pickle::Text("posix") + pickle::Text("system") + "\x93",  // STACK_GLOBAL
           std::string("\x82\x01"),                                  // EXT1, EXT2, EXT4: copyreg's registry
           std::string("\x83\x01\x00", 3),
           std::string("\x84\x01\x00\x00\x00", 5),
           std::string("Ptext\n"),
           std::string("0"),
           std::string("2"),
           std::string("I1\n"),
           std::string("S'x'\n"),
           std::string("\x92"),
           std::string("\x95") + std::string(8, '\0'),
           std::string("\x8c\x01x"),
       }) {
    EXPECT_THAT(ErrorOf(pickle::Whole(program)), HasSubstr("opcode")) << testing::PrintToString(program);
  }
  EXPECT_THAT(ErrorOf("\x80\x04."), HasSubstr("protocol 4"));
}

TEST(PickleTest, RefusesBrokenPrograms) {
  const auto error = [](const std::string& program) { return ErrorOf(pickle::Start(program)); };
  EXPECT_THAT(error("N"), HasSubstr("cut off"));
  EXPECT_THAT(error("."), HasSubstr("ends with more than its value"));
  EXPECT_THAT(error("NN."), HasSubstr("ends with more than its value"));
  EXPECT_THAT(error("(N."), HasSubstr("ends with more than its value"));
  EXPECT_THAT(error("s."), HasSubstr("nothing on the stack"));
  EXPECT_THAT(error("N(\x85."), HasSubstr("nothing on the stack"));  // nothing above the mark
  EXPECT_THAT(error("t."), HasSubstr("no mark"));
  EXPECT_THAT(error("Na."), HasSubstr("nothing on the stack"));
  EXPECT_THAT(error("NNa."), HasSubstr("items for something that holds none"));
  EXPECT_THAT(error("}(Nu."), HasSubstr("a key without a value"));
  EXPECT_THAT(error("h\x05."), HasSubstr("memo 5 was never set"));
  EXPECT_THAT(error(std::string("Nr\xff\xff\xff\xff", 6)), HasSubstr("memo 4294967295 out of order"));
  EXPECT_THAT(error("N)R."), HasSubstr("not a function"));
  EXPECT_THAT(error(pickle::Global("torch", "Size") + "}b."), HasSubstr("attributes"));
  EXPECT_THAT(error(std::string("X\xff\xff\xff\xff"
                                "abc")),
              HasSubstr("cut off"));
  EXPECT_THAT(error("cmodule"), HasSubstr("cut off"));
}

TEST(PickleTest, BoundsDepthValuesAndMarks) {
  std::string deep = "N", many = "(";
  deep.append(60'000, '\x85');
  many.append(1'000'000, 'N').append("t");
  EXPECT_THAT(ErrorOf(pickle::Whole(deep)), HasSubstr("nested deeper"));
  EXPECT_THAT(ErrorOf(pickle::Whole(std::string(60'000, '('))), HasSubstr("nested deeper"));
  EXPECT_THAT(ErrorOf(pickle::Whole(many)), HasSubstr("values"));
}

}  // namespace
}  // namespace optserve
