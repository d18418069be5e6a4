#!/usr/bin/env bash
# Makes one folder with all that tests/gpu/run.sh needs on a bare GPU machine, and an archive of it:
#
#   tests/gpu/bundle.sh [DEST]      default: build/gpu-bundle; also DEST.tar.gz, at most 60 MiB
#
# Built with CUDA 13 (deploy/install-cuda13.sh) without the server. Libraries lie beside the programs, but for CUDA's and
# the C library's: the machine brings a driver, a CUDA 13 toolkit and glibc 2.36 or newer.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly dest=${1:-build/gpu-bundle} limit_mib=60 build=build/cuda
readonly programs=(gpu_kernels_test gpu_collective_test gpu_models_test gpu_bench)

export CUDACXX=$PWD/build/cuda-13.0/bin/nvcc
bash deploy/install-cuda13.sh build/cuda-13.0
options=()
command -v ccache >/dev/null && options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
cmake --preset cuda -DOPTSERVE_SERVER=OFF -DOPTSERVE_TESTS=ON "${options[@]}" >/dev/null
cmake --build "$build" --target "${programs[@]}"

rm -rf "$dest" "$dest.tar.gz"
mkdir -p "$dest"/{bin,lib,tests/data/golden,deploy}
cp tests/gpu/run.sh tests/gpu/report.py "$dest/"
cp -r deploy/demo-model "$dest/deploy/"
cp -r tests/data/golden/{cases.json,models} "$dest/tests/data/golden/"
git rev-parse HEAD >"$dest/commit"
for program in "${programs[@]}"; do
  strip -o "$dest/bin/$program" "$build/$program"
  # The C library and what belongs to it must be the machine's own.
  ldd "$build/$program" | awk '$2 == "=>" {print $1, $3}' |
    grep -vE '^(libcudart|libcublas|libcublasLt|libc|libm|libdl|librt|libpthread|ld-linux)[.-]' |
    while read -r name path; do cp -Lu "$path" "$dest/lib/$name"; done
done
tar -czf "$dest.tar.gz" -C "$(dirname "$dest")" "$(basename "$dest")"
mib=$(($(du -sm "$dest" | cut -f1)))
((mib <= limit_mib)) || { echo "bundle.sh: $dest has $mib MiB, the limit is $limit_mib" >&2; exit 1; }
echo "bundle.sh: $dest has $mib MiB; on a GPU machine: $(basename "$dest")/run.sh"
