#!/usr/bin/env bash
# Builds everything and runs every test and check. In a fresh clone, as root or with sudo:
#
#   tests/run.sh               all of it
#   tests/run.sh --quick       the release build and its tests, formatting, layering, end to end
#   tests/run.sh --only NAME   one stage and the build it needs; NAME is one of the stages listed below
#
# Prints a table of stages and, last, "N passed, N failed", counted from the reports of GoogleTest and pytest; a stage
# without such a report (a build, a linter) counts as one check. Exits 1 if anything failed. Logs: build/tests/STAGE/log.
set -uo pipefail
cd "$(dirname "$0")/.."

readonly stages=(install release unit layering format tidy no-server cuda12 cuda e2e web faults clients deploy asan tsan fuzz)
readonly quick_stages=(install release unit layering format e2e)
readonly venv=$PWD/build/test-venv
readonly reports=$PWD/build/tests

# --- the stages; each is a function stage_NAME that gets its report folder and returns non-zero when it failed ---------

stage_install() {
  bash deploy/install-deps.sh --tests || return
  [[ -x $venv/bin/pip ]] || /usr/bin/python3 -m venv "$venv" || return
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/requirements.txt
}

stage_release() { build release; }

stage_unit() { run_ctest release "$1"; }

stage_layering() { run_pytest "$1" tests/layering; }

stage_format() { tests/lint/run.sh format; }

stage_tidy() { tests/lint/run.sh tidy build/release; }

# What a bare GPU machine builds: engine, kernels and tools, without gRPC and Boost.
stage_no-server() { build release -B build/no-server -DOPTSERVE_SERVER=OFF && run_ctest_in build/no-server "$1"; }

# The release for V100, A100 and H100, all of it, with CUDA 12.4; and today's toolkit, as a bare GPU machine builds.
# Tests that need a GPU skip.
stage_cuda12() {
  local -x OPTSERVE_CUDA12=${OPTSERVE_CUDA12:-$PWD/build/cuda-12.4} OPTSERVE_CUDA_BUILD=$PWD/build/cuda12
  bash deploy/install-cuda12.sh "$OPTSERVE_CUDA12" && configure_and_build optserve_cuda cuda12 || return
  run_ctest cuda12 "$1" -L gpu && run_pytest "$1" tests/gpu
}

stage_cuda() {
  local -x CUDACXX=$PWD/build/cuda-13.0/bin/nvcc
  bash deploy/install-cuda13.sh build/cuda-13.0 && configure_and_build optserve_cuda cuda -DOPTSERVE_SERVER=OFF || return
  run_ctest cuda "$1" -L gpu
}

stage_e2e() { OPTSERVE_BINARY=$PWD/build/release/optserve run_pytest "$1" tests/e2e; }

# The playground in Debian's Chromium.
stage_web() { OPTSERVE_BINARY=$PWD/build/release/optserve run_pytest "$1" tests/web; }

# Engines that die, hang and compute nonsense on order; a build of its own, most of it out of the compiler's cache.
stage_faults() {
  configure_and_build optserve faults || return
  OPTSERVE_BINARY=$PWD/build/faults/optserve run_pytest "$1" tests/faults
}

# In environments of their own, because they want other versions; the openai package also as the other tests have it.
stage_clients() {
  local clients_venv=$PWD/build/clients-venv
  [[ -x $clients_venv/bin/pip ]] || /usr/bin/python3 -m venv "$clients_venv" || return
  "$clients_venv/bin/pip" install --quiet --no-compile --disable-pip-version-check -r tests/clients/requirements.txt || return
  export OPTSERVE_BINARY=$PWD/build/release/optserve
  local ok=0
  run_pytest "$1" tests/clients/openai_test || ok=1
  "$clients_venv/bin/python" -m pytest -q -p no:cacheprovider --disable-warnings --junitxml="$1/pytest-clients.xml" \
    --ignore=tests/clients/load --ignore=tests/clients/transformers_test tests/clients || ok=1
  tests/clients/transformers_test/run.sh --junitxml="$1/pytest-transformers.xml" || ok=1
  return $ok
}

# What deploy/ ships, in bare roots and under the real programs; as root, because it makes namespaces.
stage_deploy() {
  bash deploy/install-deps.sh --deploy-tests || return
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/deploy/requirements.txt || return
  OPTSERVE_BINARY=$PWD/build/release/optserve run_pytest "$1" tests/deploy
}

# Without detect_stack_use_after_return: GCC 12 aligns its fake stack to less than the 64 bytes that AVX-512 code needs, and
# correct code then faults.
stage_asan() {
  build_tests asan && UBSAN_OPTIONS=print_stacktrace=1 run_ctest asan "$1"
}

# Ten seconds each: every seed and every input that once failed, and what else that finds. tests/fuzz/README.md has the
# long runs.
stage_fuzz() { tests/fuzz/run.sh --seconds 10 --junit "$1/pytest-fuzz.xml"; }

# Without the tests labelled grpc; deploy/cmake/OptserveTargets.cmake says why.
stage_tsan() { build_tests tsan && TSAN_OPTIONS=halt_on_error=1 run_ctest tsan "$1"; }

# --- how they do it ----------------------------------------------------------------------------------------------------

build() {  # PRESET [configure options]: configures and builds all of it, printing Ninja's progress
  configure_and_build all "$@"
}

build_tests() {  # PRESET [configure options]: builds what ctest runs and nothing else
  configure_and_build optserve_tests "$@"
}

configure_and_build() {  # TARGET PRESET [configure options]
  local target=$1
  shift
  local preset=$1 dir=build/$1 options=()
  shift
  [[ ${1:-} == -B ]] && dir=$2 && options=(-B "$dir") && shift 2
  command -v ccache >/dev/null && options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
  cmake --preset "$preset" -DOPTSERVE_TESTS=ON "${options[@]}" "$@" && cmake --build "$dir" --target "$target"
}

run_ctest() {  # PRESET REPORT_DIR [ctest options]
  run_ctest_in "build/$1" "${@:2}"
}

run_ctest_in() {  # BUILD_DIR REPORT_DIR [ctest options]: every GoogleTest binary leaves its own report
  local dir=$1 report=$2
  shift 2
  mkdir -p "$report/gtest"
  GTEST_OUTPUT="xml:$report/gtest/" ctest --test-dir "$dir" --output-on-failure --no-tests=error --timeout 900 \
    --output-junit "$report/ctest.xml" "$@"
}

run_pytest() {  # REPORT_DIR TESTS
  "$venv/bin/python" -m pytest -q -p no:cacheprovider --junitxml="$1/pytest.xml" "$2"
}

# --- running and summing up --------------------------------------------------------------------------------------------

passed=0 failed=0 skipped=0 table=""

run_stage() {
  local name=$1 dir=$reports/$1 begin=$SECONDS ok=1 counts
  rm -rf "$dir" && mkdir -p "$dir"
  printf '\n=== %s ===\n' "$name"
  "stage_$name" "$dir" 2>&1 | tee "$dir/log" || ok=0
  counts=$(/usr/bin/python3 tests/results.py "$dir") || { counts="0 0 0"; ok=0; }
  read -r stage_passed stage_failed stage_skipped <<<"$counts"
  # A stage that reports no test case is one check; one that failed without a failed case (it could not run) is one too.
  if ((ok == 0 && stage_failed == 0)); then stage_failed=1; fi
  if ((ok == 1 && stage_passed + stage_failed + stage_skipped == 0)); then stage_passed=1; fi
  passed=$((passed + stage_passed)) failed=$((failed + stage_failed)) skipped=$((skipped + stage_skipped))
  table+=$(printf '%-10s %7d passed %5d failed %5d skipped %6d s' \
    "$name" "$stage_passed" "$stage_failed" "$stage_skipped" $((SECONDS - begin)))$'\n'
  table+=$(tail -n +2 <<<"$counts")
  [[ $table == *$'\n' ]] || table+=$'\n'
}

selected=("${stages[@]}")
case "${1:-}" in
  "") ;;
  --quick) selected=("${quick_stages[@]}") ;;
  --only)
    [[ " ${stages[*]} " == *" ${2:-} "* ]] || { echo "run.sh: --only takes one of: ${stages[*]}" >&2; exit 2; }
    case $2 in
      install | release) selected=("$2") ;;
      format | layering | no-server | cuda12 | cuda | asan | tsan | fuzz) selected=(install "$2") ;;
      *) selected=(install release "$2") ;;
    esac ;;
  *) echo "usage: tests/run.sh [--quick | --only NAME]" >&2; exit 2 ;;
esac

for stage in "${selected[@]}"; do run_stage "$stage"; done

printf '\n=== summary (%d min %d s) ===\n%s' $((SECONDS / 60)) $((SECONDS % 60)) "$table"
((skipped == 0)) || echo "skipped: $skipped"
echo "$passed passed, $failed failed"
((failed == 0))
