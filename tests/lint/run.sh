#!/usr/bin/env bash
# The two linters, with the settings in .clang-format and .clang-tidy at the root.
#
#   tests/lint/run.sh format          every C++ file in git is formatted
#   tests/lint/run.sh format --fix    formats them
#   tests/lint/run.sh tidy BUILD_DIR  every source of server, engine, kernels and clients that BUILD_DIR compiles passes clang-tidy
set -euo pipefail
cd "$(dirname "$0")/../.."

format() {
  local mode=(--dry-run --Werror)
  [[ ${1:-} == --fix ]] && mode=(-i)
  git ls-files -z --cached --others --exclude-standard '*.h' '*.cc' '*.cu' '*.cuh' |
    xargs -0 --no-run-if-empty clang-format "${mode[@]}"
}

# Tests are left out: GoogleTest's macros cost a minute per file and clang-tidy finds little in them.
tidy() {
  local build_dir=$1
  [[ -f $build_dir/compile_commands.json ]] || { echo "lint: configure $build_dir first" >&2; return 2; }
  run-clang-tidy -quiet -p "$build_dir" -j "$(nproc)" "^$PWD/(server|engine|kernels|clients)/.*\.cc\$"
}

case "${1:-}" in
  format | tidy) "$@" ;;
  *) echo "usage: tests/lint/run.sh format [--fix] | tidy BUILD_DIR" >&2; exit 2 ;;
esac
