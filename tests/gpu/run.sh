#!/usr/bin/env bash
# Tests and measures the CUDA kernels on the GPU of this machine; from the folder that bundle.sh made, nothing else needed:
#
#   run.sh [--out DIR] [PART...]     parts: kernels collectives models memcheck racecheck synccheck bench; default: all
#
# Needs NVIDIA's driver, a CUDA 13 toolkit (in /usr/local/cuda or $CUDA_HOME) and glibc 2.36. Each part takes at most nine
# minutes and goes on where another failed. Writes DIR/results.json and prints a table. Exit codes: 0 all parts passed, 1
# some failed, 2 wrong use, 3 there is no GPU here.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)

readonly all_parts=(kernels collectives models memcheck racecheck synccheck bench)
readonly part_seconds=540
out=$PWD/gpu-results parts=()
while (($#)); do
  case $1 in
    --out) [[ $# -ge 2 ]] || { echo "run.sh: --out needs a folder" >&2; exit 2; }
           out=$2; shift 2 ;;
    *) [[ " ${all_parts[*]} " == *" $1 "* ]] || { echo "run.sh: no part is called '$1'; there are: ${all_parts[*]}" >&2; exit 2; }
       parts+=("$1"); shift ;;
  esac
done
((${#parts[@]})) || parts=("${all_parts[@]}")

# Before anything is run: is there a GPU at all?
shopt -s nullglob
devices=(/dev/nvidia[0-9]*)
if ((${#devices[@]} == 0)); then
  echo "run.sh: no GPU: this machine has no /dev/nvidia0; nothing was run" >&2
  exit 3
fi
cuda=${CUDA_HOME:-/usr/local/cuda}
[[ -e $cuda/lib64/libcudart.so.13 ]] || { echo "run.sh: no CUDA 13 toolkit in $cuda; CUDA_HOME may name one" >&2; exit 2; }

mkdir -p "$out"
export LD_LIBRARY_PATH=$here/lib:$cuda/lib64 OPTSERVE_TEST_ROOT=$here OPTSERVE_NEED_GPU=1

# Under a checker kernels are many times slower; the collectives' ranks, which wait for each other, are left out of it.
checked() { "$cuda/bin/compute-sanitizer" --error-exitcode 9 --tool "$1" "$here/bin/gpu_kernels_test"; }

part_kernels() { "$here/bin/gpu_kernels_test" --gtest_output="json:$out/kernels.json"; }
part_collectives() {
  OPTSERVE_COLLECTIVE_ROUNDS=200 "$here/bin/gpu_collective_test" --gtest_filter='*/2_*:*/3_*:*/4_*' --gtest_output="json:$out/collectives.json"
}
part_models() { "$here/bin/gpu_models_test" --gtest_output="json:$out/models.json"; }
part_memcheck() { checked memcheck; }
part_racecheck() { checked racecheck; }
part_synccheck() { checked synccheck; }
part_bench() { "$here/bin/gpu_bench" >"$out/bench.jsonl" && cat "$out/bench.jsonl"; }

failed=0
: >"$out/parts.tsv"
for part in "${parts[@]}"; do
  begin=$SECONDS result=passed
  echo "=== $part"
  export -f "part_$part" checked
  export here cuda out
  timeout --kill-after=10 "$part_seconds" bash -c "part_$part" >"$out/$part.log" 2>&1 || { result="failed ($?)"; failed=1; }
  tail -n 3 "$out/$part.log"
  printf '%s\t%s\t%s\n' "$part" "$result" $((SECONDS - begin)) >>"$out/parts.tsv"
done
if command -v python3 >/dev/null; then python3 "$here/report.py" "$out" "$here/commit"; else column -t -s $'\t' "$out/parts.tsv"; fi
exit $failed
