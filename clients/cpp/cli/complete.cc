#include "clients/cpp/cli/complete.h"

#include <fmt/format.h>
#include <google/protobuf/util/json_util.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <optional>
#include <utility>

namespace optserve::cli {
namespace {

using SteadyClock = std::chrono::steady_clock;

struct Prompt {
  std::string name;  // for the heading: a file's, or the text itself
  std::string text;
};

absl::StatusOr<std::vector<Prompt>> ReadPrompts(const CompleteOptions& options) {
  std::vector<Prompt> prompts;
  for (const std::string& text : options.texts) prompts.push_back({.name = text, .text = text});
  std::vector<std::string> files = options.files;
  if (prompts.empty() && files.empty()) {
    if (isatty(STDIN_FILENO) == 1) {
      return absl::InvalidArgumentError("give a TEXT, a --file, or text on standard input");
    }
    files.emplace_back("-");
  }
  for (const std::string& file : files) {
    absl::StatusOr<std::string> text = ReadText(file);
    if (!text.ok()) return text.status();
    prompts.push_back({.name = file, .text = *std::move(text)});
  }
  return prompts;
}

// What one run prints, and how.
class Printer {
 public:
  explicit Printer(const CompleteOptions& options)
      : terminal_(TerminalOf(stdout, options.color)), is_painted_(options.probabilities && terminal_.has_color) {}

  // A piece of an answer. With log probabilities it is painted token by token.
  void Piece(const v1::Choice& choice) {
    std::string shown;
    if (is_painted_ && choice.logprobs_size() > 0) {
      shown = PaintedTokens(choice);
    } else {
      shown = Shown(choice.text(), terminal_);
    }
    std::fwrite(shown.data(), 1, shown.size(), stdout);
    std::fflush(stdout);
    if (!choice.text().empty()) ends_line_ = choice.text().ends_with('\n');
  }

  void EndLine() {
    if (!std::exchange(ends_line_, true)) std::fputc('\n', stdout);
    std::fflush(stdout);
  }

  bool IsPainted() const { return is_painted_; }
  const Terminal& terminal() const { return terminal_; }

 private:
  // The choice's text, cut at its tokens' offsets: what the tokens show, without those that show nothing.
  std::string PaintedTokens(const v1::Choice& choice) {
    std::string painted;
    const std::string& text = choice.text();
    size_t begin = 0;
    for (int i = 0; i < choice.logprobs_size(); ++i) {
      const bool is_last = i + 1 == choice.logprobs_size();
      const int width = is_last ? 0 : choice.logprobs(i + 1).text_offset() - choice.logprobs(i).text_offset();
      const size_t end = is_last ? text.size() : AfterCharacters(text, begin, width);
      const v1::TokenLogprob& token = choice.logprobs(i).token();
      const std::string_view piece = std::string_view(text).substr(begin, end - begin);
      painted += token.has_logprob() ? Painted(piece, std::exp(token.logprob()), terminal_) : Shown(piece, terminal_);
      begin = end;
    }
    return painted;
  }

  static size_t AfterCharacters(const std::string& text, size_t at, int count) {
    for (; count > 0 && at < text.size(); --count) {
      ++at;
      while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) ++at;
    }
    return at;
  }

  Terminal terminal_;
  bool is_painted_;
  bool ends_line_ = true;
};

struct Tally {
  int tokens = 0;
  std::optional<SteadyClock::time_point> first;
};

absl::Status StreamOne(const client::Client& server, const ServerAccess& access, const v1::CompletionRequest& request,
                       Printer& printer, Tally& tally) {
  const absl::Status status = server.Stream(
      request,
      [&](const v1::CompletionEvent& event) {
        if (!tally.first) tally.first = SteadyClock::now();
        for (const v1::Choice& choice : event.choices()) printer.Piece(choice);
        if (event.has_usage()) tally.tokens = event.usage().completion_tokens();
      },
      CallOf(access));
  printer.EndLine();
  return status;
}

absl::Status CompleteWhole(const client::Client& server, const ServerAccess& access, v1::CompletionRequest& request,
                           const CompleteOptions& options, Printer& printer, Tally& tally) {
  const absl::StatusOr<v1::CompletionResponse> answer = server.Complete(request, CallOf(access));
  if (!answer.ok()) return answer.status();
  tally.tokens = answer->usage().completion_tokens();
  if (options.json) {
    google::protobuf::util::JsonPrintOptions print;
    print.preserve_proto_field_names = true;
    print.always_print_primitive_fields = true;
    std::string line;
    if (!google::protobuf::util::MessageToJsonString(*answer, &line, print).ok()) {
      return absl::InternalError("the answer holds text that is not UTF-8");
    }
    fmt::print("{}\n", line);
    return absl::OkStatus();
  }
  for (const v1::Choice& choice : answer->choices()) {
    if (choice.index() > 0) std::fputc('\n', stdout);
    printer.Piece(choice);
    printer.EndLine();
  }
  return absl::OkStatus();
}

void PrintStats(const Tally& tally, SteadyClock::time_point began) {
  const double seconds = std::chrono::duration<double>(SteadyClock::now() - began).count();
  const std::string first =
      tally.first ? fmt::format("first after {:.3f} s, ", std::chrono::duration<double>(*tally.first - began).count())
                  : "";
  fmt::print(stderr, "{} tokens in {:.3f} s, {}{:.1f} tokens/s\n", tally.tokens, seconds, first,
             tally.tokens / seconds);
}

}  // namespace

int Complete(const ServerAccess& access, const CompleteOptions& options) {
  const absl::StatusOr<std::unique_ptr<client::Client>> server = Connect(access);
  if (!server.ok()) return Fail(server.status(), access);
  const absl::StatusOr<std::vector<Prompt>> prompts = ReadPrompts(options);
  if (!prompts.ok()) return Fail(prompts.status(), access);

  v1::CompletionRequest request = options.request;
  Printer printer(options);
  if (printer.IsPainted()) {
    if (!request.has_logprobs()) request.set_logprobs(0);
    fmt::print(stderr, "{}\n", ColorLegend(TerminalOf(stderr, options.color)));
  }
  const bool is_streamed = !options.json && request.n() <= 1 && request.best_of() <= 1;
  if (options.json && request.has_logprobs()) request.set_return_token_ids(true);  // the tokens' ids
  if (is_streamed && options.stats) request.mutable_stream_options()->set_include_usage(true);
  for (size_t i = 0; i < prompts->size(); ++i) {
    const Prompt& prompt = (*prompts)[i];
    request.clear_prompt();
    request.add_prompt()->set_text(prompt.text);
    if (prompts->size() > 1 && !options.json) {
      fmt::print("{}==> {} <==\n", i == 0 ? "" : "\n", Shown(prompt.name, printer.terminal()));
    }
    const SteadyClock::time_point began = SteadyClock::now();
    Tally tally;
    const absl::Status status = is_streamed ? StreamOne(**server, access, request, printer, tally)
                                            : CompleteWhole(**server, access, request, options, printer, tally);
    if (!status.ok()) return Fail(status, access);
    if (options.stats) PrintStats(tally, began);
  }
  return kExitOk;
}

}  // namespace optserve::cli
