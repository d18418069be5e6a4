#include "clients/cli/completion_script.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>

namespace optserve {
namespace {

std::string Joined(const std::vector<std::string>& words) { return fmt::format("{}", fmt::join(words, " ")); }

// Bash's own way; zsh takes it through bashcompinit.
std::string BashScript(std::string_view program, std::span<const CommandWords> commands) {
  // A function's name, which may hold no dash everywhere.
  std::string function = fmt::format("_{}", program);
  std::replace(function.begin(), function.end(), '-', '_');
  std::string names;
  std::string cases;
  for (const CommandWords& command : commands) {
    names += command.name + ' ';
    cases += fmt::format("    {}) words='{}' ;;\n", command.name, Joined(command.flags));
  }
  return fmt::format(
      "{2}() {{\n"
      "  local current=${{COMP_WORDS[COMP_CWORD]}} words=\n"
      "  if ((COMP_CWORD == 1)); then COMPREPLY=($(compgen -W '{0}--help --version' -- \"$current\")); return; fi\n"
      "  case ${{COMP_WORDS[1]}} in\n{1}  esac\n"
      "  if [[ $current == -* ]]; then COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
      "  else COMPREPLY=($(compgen -f -- \"$current\")); fi\n"
      "}}\n"
      "complete -o filenames -F {2} {3}\n",
      names, cases, function, program);
}

std::string FishScript(std::string_view program, std::span<const CommandWords> commands) {
  std::string script;
  for (const CommandWords& command : commands) {
    script +=
        fmt::format("complete -c {} -n __fish_use_subcommand -a {} -d '{}'\n", program, command.name, command.help);
    for (const std::string& flag : command.flags) {
      if (!flag.starts_with("--")) continue;
      script += fmt::format("complete -c {} -n '__fish_seen_subcommand_from {}' -l {}\n", program, command.name,
                            flag.substr(2));
    }
  }
  return script;
}

}  // namespace

std::vector<CommandWords> CommandsOf(const CLI::App& app) {
  std::vector<CommandWords> commands;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    commands.push_back({.name = command->get_name(), .help = command->get_description()});
    for (const CLI::Option* option : command->get_options()) {
      for (const std::string& name : option->get_lnames()) commands.back().flags.push_back("--" + name);
    }
  }
  return commands;
}

absl::StatusOr<std::string> CompletionScript(std::string_view shell, std::string_view program,
                                             std::span<const CommandWords> commands) {
  if (shell == "bash") return BashScript(program, commands);
  if (shell == "zsh") return "autoload -U +X bashcompinit && bashcompinit\n" + BashScript(program, commands);
  if (shell == "fish") return FishScript(program, commands);
  return absl::InvalidArgumentError(fmt::format("there is completion for bash, zsh and fish, not for '{}'", shell));
}

}  // namespace optserve
