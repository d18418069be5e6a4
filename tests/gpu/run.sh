#!/usr/bin/env bash
# Tests and measures the CUDA kernels on the GPU of this machine; from the folder that bundle.sh made, nothing else needed:
#
#   run.sh [--out DIR] [PART...]
#
#   kernels        every kernel against the f64 loops
#   instructions   each instruction that kernels/common/gpu.h wraps, on its own: what the emulator answers to as well
#   collectives    sums over 2 to 16 ranks, which share the GPU if there is one
#   nccl           sums by NCCL on all GPUs, in graphs too, and their end when a rank fails; wants a GPU for each of 2 ranks
#   models         golden models against Hugging Face's log probabilities
#   ptx70          kernels and models as PTX of sm_70, which the driver translates for this GPU
#   memcheck racecheck synccheck     the kernels' tests under compute-sanitizer
#   bench          the roofs, and each kernel at the shapes of OPT
#   linear_table   kernels/linear/linear_table.inc anew, for this GPU: in linear_table.log
#   decode         whole steps of OPT-125M, 1.3B and 6.7B: decoding at batch 1 to 128, prompts
#   large          the same of 13B and 30B
#   shard          one rank's step of 175B on 16, without the wire
#   ranks          the all-reduce's time over sizes, one-shot and two-shot
#   transformers   the same decoding by Hugging Face transformers, in turns with ours
#
# No PART: all of them. Needs NVIDIA's driver, the CUDA toolkit whose number is in the file `toolkit` (in /usr/local/cuda or
# $CUDA_HOME) and glibc 2.36; `transformers` also a Python with torch ($PYTHON or python3). A part takes at most nine
# minutes, and the next one begins also where one failed. Writes DIR/results.json, by default gpu-results/, and prints a
# table. Exit codes: 0 nothing failed, 1 a part did, 2 wrong use, 3 there is no GPU here.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)

readonly all_parts=(kernels instructions collectives nccl models ptx70 memcheck racecheck synccheck bench linear_table decode large
                    shard ranks transformers)
readonly part_seconds=${OPTSERVE_PART_SECONDS:-520}
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

# A bundle with emulated GPUs (bundle.sh --emulated) tries this script where there is no GPU: tiny shapes, no speeds.
smoke=() collective_rounds=200
[[ -e $here/emulated ]] && smoke=(--smoke) collective_rounds=4

# Before anything is run: is there a GPU at all, and what it needs?
cuda=${CUDA_HOME:-/usr/local/cuda}
if [[ ! -e $here/emulated ]]; then
  shopt -s nullglob
  devices=("${OPTSERVE_DEV:-/dev}"/nvidia[0-9]* "${OPTSERVE_DEV:-/dev}"/dxg)
  shopt -u nullglob
  if ((${#devices[@]} == 0)) || [[ ! -e ${devices[0]} ]]; then
    echo "run.sh: no GPU: this machine has no /dev/nvidia0; nothing was run" >&2
    exit 3
  fi
  toolkit=$(<"$here/toolkit")
  [[ -e $cuda/lib64/libcudart.so.$toolkit ]] ||
    { echo "run.sh: no CUDA $toolkit toolkit in $cuda; CUDA_HOME may name one" >&2; exit 2; }
fi
export LD_LIBRARY_PATH=$here/lib:$cuda/lib64 OPTSERVE_TEST_ROOT=$here OPTSERVE_NEED_GPU=1
if ! gpu=$("$here/bin/gpu_bench" --check 2>&1); then
  echo "run.sh: no GPU that can be used: $gpu; nothing was run" >&2
  exit 3
fi

mkdir -p "$out"
out=$(cd "$out" && pwd)
# Ranks that share a GPU wait for each other's kernels: every stream needs a queue of its own, and a kernel that is loaded
# when it is first launched would wait for those that run. What the driver translates stays with the results.
export CUDA_DEVICE_MAX_CONNECTIONS=32 CUDA_MODULE_LOADING=EAGER CUDA_CACHE_PATH=$out/jit-cache
export here cuda out collective_rounds

# A part that cannot be run here says why in its last line and ends with 77.

# Kernels are many times slower under a checker, which finds most with few shapes; ranks that wait for each other are left
# out of it.
checked() {
  [[ -x $cuda/bin/compute-sanitizer ]] || { echo "no compute-sanitizer in $cuda/bin"; return 77; }
  "$cuda/bin/compute-sanitizer" --error-exitcode 9 --tool "$1" "$here/bin/gpu_kernels_test"
}
measured() {  # FILE PROGRAM [OPTIONS]: the figures, a JSON object a line, also where the program ends before its time
  local file=$out/$1.jsonl
  shift
  "$@" "${smoke[@]}" | tee "$file"
  return "${PIPESTATUS[0]}"
}

part_kernels() { "$here/bin/gpu_kernels_test" --gtest_output="json:$out/kernels.json"; }
part_instructions() {
  "$here/bin/gpu_kernels_test" --gtest_filter='CudaInstructionTest.*' --gtest_output="json:$out/instructions.json"
}
part_collectives() {
  OPTSERVE_COLLECTIVE_ROUNDS=$collective_rounds "$here/bin/gpu_collective_test" \
    --gtest_filter="${GTEST_FILTER:-*/2_*:*/3_*:*/4_*:*/8_*:*/16_*}" --gtest_output="json:$out/collectives.json"
}
# NCCL refuses ranks that share a GPU.
part_nccl() {
  local log=$out/nccl.gtest
  "$here/bin/gpu_nccl_test" --gtest_filter='NcclRanks.*' --gtest_output="json:$out/nccl.json" | tee "$log"
  local code=${PIPESTATUS[0]} why
  why=$(grep -m1 -oE 'NCCL wants a GPU for each rank.*|NCCL is not installed.*' "$log") && { echo "$why"; return 77; }
  return "$code"
}
part_models() { "$here/bin/gpu_models_test" --gtest_output="json:$out/models.json"; }
part_ptx70() {
  [[ -e $here/bin/ptx70_kernels_test ]] || { echo "this bundle has no PTX of sm_70"; return 77; }
  "$here/bin/ptx70_kernels_test" --gtest_output="json:$out/ptx70_kernels.json" &&
    "$here/bin/ptx70_models_test" --gtest_output="json:$out/ptx70_models.json"
}
part_memcheck() { checked memcheck; }
part_racecheck() { checked racecheck; }
part_synccheck() { checked synccheck; }
part_bench() { measured bench "$here/bin/gpu_bench"; }
part_linear_table() { "$here/bin/gpu_linear_table" "${smoke[0]:-$(<"$out/gpu"), $(date +%F)}"; }
part_decode() { measured decode "$here/bin/gpu_model_bench" --sizes 125m,1.3b,6.7b; }
part_large() { measured large "$here/bin/gpu_model_bench" --sizes 13b,30b; }
part_shard() { measured shard "$here/bin/gpu_model_bench" --sizes 175b --ranks 16 --batches 1,8,32; }
part_ranks() { measured ranks "$here/bin/gpu_collective_bench"; }
part_transformers() { measured transformers "${PYTHON:-python3}" "$here/compare_transformers.py" --bench "$here/bin/gpu_model_bench"; }

run_part() {  # in a process of its own, with its time
  local functions
  functions=$(declare -f checked measured "part_$1")
  timeout --kill-after=10 "$part_seconds" bash -c "smoke=(${smoke[*]}); $functions; part_$1" >"$out/$1.log" 2>&1
}

failed=0
printf '%s\n' "$gpu" >"$out/gpu"
rm -f "$out"/*.jsonl
: >"$out/parts.tsv"
for part in "${parts[@]}"; do
  begin=$SECONDS result=passed
  echo "=== $part"
  run_part "$part"
  code=$?
  case $code in
    0) ;;
    77) result="not run: $(tail -n 1 "$out/$part.log")" ;;
    124) result="failed: took more than $part_seconds s" failed=1 ;;
    *) result="failed: exit code $code" failed=1 ;;
  esac
  tail -n 3 "$out/$part.log"
  printf '%s\t%s\t%s\n' "$part" "$result" $((SECONDS - begin)) >>"$out/parts.tsv"
  # Sums up what is there after each part, so that a machine that is taken away leaves what it has measured.
  if command -v python3 >/dev/null; then python3 "$here/report.py" sum-up "$out" "$here" >"$out/table"; fi
done
if [[ -s $out/table ]]; then cat "$out/table"; else cat "$out/parts.tsv"; fi
exit $failed
