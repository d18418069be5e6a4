#include "server/commands/completion_script.h"

#include <fmt/format.h>

#include "engine/util/status.h"

namespace optserve {
namespace {

std::string Joined(const std::vector<std::string>& words) { return fmt::format("{}", fmt::join(words, " ")); }

// Bash's own way; zsh takes it through bashcompinit.
std::string BashScript(std::span<const CommandWords> commands) {
  std::string names;
  std::string cases;
  for (const CommandWords& command : commands) {
    names += command.name + ' ';
    cases += fmt::format("    {}) words='{}' ;;\n", command.name, Joined(command.flags));
  }
  return fmt::format(
      "_optserve() {{\n"
      "  local current=${{COMP_WORDS[COMP_CWORD]}} words=\n"
      "  if ((COMP_CWORD == 1)); then COMPREPLY=($(compgen -W '{}--help --version' -- \"$current\")); return; fi\n"
      "  case ${{COMP_WORDS[1]}} in\n{}  esac\n"
      "  if [[ $current == -* ]]; then COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
      "  else COMPREPLY=($(compgen -f -- \"$current\")); fi\n"
      "}}\n"
      "complete -o filenames -F _optserve optserve\n",
      names, cases);
}

std::string FishScript(std::span<const CommandWords> commands) {
  std::string script;
  for (const CommandWords& command : commands) {
    script += fmt::format("complete -c optserve -n __fish_use_subcommand -a {} -d '{}'\n", command.name, command.help);
    for (const std::string& flag : command.flags) {
      if (!flag.starts_with("--")) continue;
      script +=
          fmt::format("complete -c optserve -n '__fish_seen_subcommand_from {}' -l {}\n", command.name, flag.substr(2));
    }
  }
  return script;
}

}  // namespace

absl::StatusOr<std::string> CompletionScript(std::string_view shell, std::span<const CommandWords> commands) {
  if (shell == "bash") return BashScript(commands);
  if (shell == "zsh") return "autoload -U +X bashcompinit && bashcompinit\n" + BashScript(commands);
  if (shell == "fish") return FishScript(commands);
  return InvalidArgument("there is completion for bash, zsh and fish, not for '{}'", shell);
}

}  // namespace optserve
