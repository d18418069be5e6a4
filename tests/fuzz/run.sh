#!/usr/bin/env bash
# Runs the fuzz targets, each for a bounded time over a copy of its corpus, which it first replays:
#
#   tests/fuzz/run.sh                        every target, 60 seconds each
#   tests/fuzz/run.sh --seconds 1800 pickle zip
#   tests/fuzz/run.sh --jobs 1               how many at a time; else two
#   tests/fuzz/run.sh --junit FILE           a report for tests/results.py
#
# Prints a line per target: seconds, executions, edges covered, and what it found. An input that fails stays in
# build/fuzz/runs/TARGET/ with the command that runs it again. Exits 1 if there is one. The grown corpus stays there, too:
# `--keep` adds to it instead of starting from the committed one.
set -uo pipefail
cd "$(dirname "$0")/../.."

readonly targets=(pickle zip safetensors config http_request json_codec proto_codec torch index tokenizer_files text
  process_frames frame_channel api_keys log client_answer client_http metrics_page trace_context)
readonly work=$PWD/build/fuzz/runs
seconds=60 jobs=2 keep=0 junit="" selected=()

while (($# > 0)); do
  case $1 in
    --seconds) seconds=${2:?--seconds N}; shift 2 ;;
    --jobs) jobs=${2:?--jobs N}; shift 2 ;;
    --junit) junit=${2:?--junit FILE}; shift 2 ;;
    --keep) keep=1; shift ;;
    -*) echo "usage: tests/fuzz/run.sh [--seconds N] [--jobs N] [--keep] [--junit FILE] [target...]" >&2; exit 2 ;;
    *)
      [[ " ${targets[*]} " == *" $1 "* ]] || { echo "run.sh: no target $1; there are: ${targets[*]}" >&2; exit 2; }
      selected+=("$1"); shift ;;
  esac
done
((${#selected[@]})) || selected=("${targets[@]}")

launcher=()
command -v ccache >/dev/null && launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
cmake --preset fuzz -DOPTSERVE_TESTS=OFF "${launcher[@]}" >/dev/null || exit
cmake --build build/fuzz --target "${selected[@]/%/_fuzz}" || exit

# A single input may take 5 seconds and half a gigabyte with all of AddressSanitizer's own: far more than any should.
readonly options=(-timeout=5 -rss_limit_mb=640 -malloc_limit_mb=256 -max_len=65536 -print_final_stats=1 -verbosity=1)

run_target() {
  local target=$1 dir=$work/$1 rc begin=$SECONDS regressions dictionary=()
  ((keep)) || rm -rf "$dir/corpus"
  rm -rf "$dir/found" "$dir/log" && mkdir -p "$dir/corpus" "$dir/found"
  regressions=(tests/fuzz/regressions/"$target"/*)
  [[ -e ${regressions[0]} ]] || regressions=()
  [[ -e tests/fuzz/dictionaries/$target.dict ]] && dictionary=("-dict=tests/fuzz/dictionaries/$target.dict")
  cp tests/fuzz/corpus/"$target"/* "${regressions[@]}" "$dir/corpus/" || return
  ASAN_OPTIONS=detect_stack_use_after_return=0 UBSAN_OPTIONS=print_stacktrace=1 "build/fuzz/${target}_fuzz" \
    "${options[@]}" "${dictionary[@]}" -max_total_time="$seconds" -artifact_prefix="$dir/found/" "$dir/corpus" \
    >"$dir/log" 2>&1
  rc=$?
  local executions edges found
  executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$dir/log")
  edges=$(grep -o 'cov: [0-9]*' "$dir/log" | tail -1 | tr -dc 0-9)
  found=$(find "$dir/found" -type f | head -1)
  printf '%-16s %6d s %12s executions %6s edges  %s\n' "$target" $((SECONDS - begin)) "${executions:-?}" "${edges:-?}" \
    "$( ((rc == 0)) && echo "nothing found" || echo "FAILED (status $rc)")"
  if ((rc != 0)); then
    grep -m 3 -E 'not true|ERROR: |runtime error|SUMMARY' "$dir/log" | sed 's/^/    /'
    echo "    again: build/fuzz/${target}_fuzz ${found:-$dir/corpus/*}"
  fi
  return $rc
}

mkdir -p "$work"
running=0 failed=0 cases=""
declare -A target_of
collect() {  # waits for one target
  local pid rc
  wait -n -p pid; rc=$?
  running=$((running - 1))
  if ((rc == 0)); then
    cases+="<testcase classname=\"fuzz\" name=\"${target_of[$pid]}\"/>"
  else
    failed=$((failed + 1))
    cases+="<testcase classname=\"fuzz\" name=\"${target_of[$pid]}\"><failure/></testcase>"
  fi
}
for target in "${selected[@]}"; do
  ((running < jobs)) || collect
  run_target "$target" &
  target_of[$!]=$target
  running=$((running + 1))
done
while ((running > 0)); do collect; done
[[ -z $junit ]] || echo "<testsuite>$cases</testsuite>" >"$junit"
((failed == 0))
