#!/usr/bin/env bash
# Makes one folder with all that tests/gpu/run.sh needs on a bare GPU machine, and an archive of it:
#
#   tests/gpu/bundle.sh [--toolkit 12 | --emulated] [DEST]   default: build/gpu-bundle; also DEST.tar.gz, at most 60 MiB
#
# Built with CUDA 13 (deploy/install-cuda13.sh), or for V100, which it does not know, with --toolkit 12; without the server.
# The machine brings a driver, that toolkit and glibc 2.36 or newer; all other libraries lie beside the programs. With
# --emulated the programs of build/release with emulated GPUs, to try run.sh with: they are built already.
set -euo pipefail
cd "$(dirname "$0")/../.."

toolkit=13 dest=build/gpu-bundle
while (($#)); do
  case $1 in
    --toolkit) [[ ${2:-} == 12 || ${2:-} == 13 ]] || { echo "bundle.sh: --toolkit is 12 or 13" >&2; exit 2; }
               toolkit=$2; shift 2 ;;
    --emulated) toolkit=emulated; shift ;;
    -*) echo "bundle.sh: no option is called $1; there are: --toolkit --emulated" >&2; exit 2 ;;
    *) dest=$1; shift ;;
  esac
done
readonly dest toolkit limit_mib=60
readonly programs=(kernels_test collective_test nccl_test models_test bench model_bench collective_bench linear_table)

options=(-DOPTSERVE_SERVER=OFF -DOPTSERVE_TESTS=ON)
command -v ccache >/dev/null && options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_CUDA_COMPILER_LAUNCHER=ccache)

build_programs() {  # PRESET BUILD [configure options] -- TARGETS
  local preset=$1 build=$2 more=()
  shift 2
  while [[ $1 != -- ]]; do more+=("$1"); shift; done
  cmake --preset "$preset" -B "$build" "${options[@]}" "${more[@]}" >/dev/null
  cmake --build "$build" --target "${@:2}"
}

add_program() {  # FILE NAME: without its symbols, and what it is linked with beside it
  strip -o "$dest/bin/$2" "$1"
  # The C library and what belongs to it must be the machine's own, and so must CUDA's.
  ldd "$1" | awk '$2 == "=>" {print $1, $3}' |
    grep -vE '^(libcudart|libcublas|libcublasLt|libc|libm|libdl|librt|libpthread|ld-linux)[.-]' |
    while read -r name path; do cp -Lu "$path" "$dest/lib/$name"; done
}

if [[ $toolkit == emulated ]]; then
  build=build/release prefix=cuda_
elif [[ $toolkit == 13 ]]; then
  export CUDACXX=$PWD/build/cuda-13.0/bin/nvcc  # where a preset names no compiler
  bash deploy/install-cuda13.sh build/cuda-13.0
  build=build/cuda prefix=gpu_
  build_programs cuda "$build" -- optserve_gpu_programs
else
  build=build/cuda12-gpu prefix=gpu_
fi
if [[ $toolkit != emulated ]]; then
  export OPTSERVE_CUDA12=${OPTSERVE_CUDA12:-$PWD/build/cuda-12.4}
  bash deploy/install-cuda12.sh "$OPTSERVE_CUDA12"
  [[ $toolkit == 13 ]] || build_programs cuda12 "$build" -- optserve_gpu_programs
  # What the driver is to translate: no newer compiler makes PTX of sm_70. The runtime is linked in, and cuBLAS, whose
  # interface is the same in both, is the machine's.
  cublas=build/cuda-13.0/lib64
  [[ $toolkit == 13 ]] || cublas=$OPTSERVE_CUDA12/lib64
  build_programs ptx70 "build/ptx70-$toolkit" -DCUDA_cublas_LIBRARY="$(realpath "$cublas")/libcublas.so" -- \
    gpu_kernels_test gpu_models_test
fi

rm -rf "$dest" "$dest.tar.gz"
mkdir -p "$dest"/{bin,lib,tests/data/golden,deploy}
cp tests/gpu/run.sh tests/gpu/report.py tests/gpu/compare_transformers.py "$dest/"
cp -r deploy/demo-model "$dest/deploy/"
cp -r tests/data/golden/{cases.json,models} "$dest/tests/data/golden/"
git rev-parse HEAD >"$dest/commit"
for program in "${programs[@]}"; do
  name=$prefix$program
  [[ $prefix == cuda_ && $program == kernels_test ]] && name=cuda_emulated_test
  add_program "$build/$name" "gpu_$program"
done
if [[ $toolkit == emulated ]]; then
  touch "$dest/emulated"
else
  echo "$toolkit" >"$dest/toolkit"
  for program in kernels_test models_test; do add_program "build/ptx70-$toolkit/gpu_$program" "ptx70_$program"; done
fi
tar -czf "$dest.tar.gz" -C "$(dirname "$dest")" "$(basename "$dest")"
mib=$(($(du -sm "$dest" | cut -f1)))
((mib <= limit_mib)) || { echo "bundle.sh: $dest has $mib MiB, the limit is $limit_mib" >&2; exit 1; }
echo "bundle.sh: $dest has $mib MiB; on a GPU machine: $(basename "$dest")/run.sh"
