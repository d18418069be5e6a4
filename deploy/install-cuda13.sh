#!/usr/bin/env bash
# Lays out a CUDA 13.0 toolkit (GPUs from sm_75 on: T4, A100, H100 and newer) under DEST.
#
#   install-cuda13.sh DEST
#
# All of it comes from NVIDIA's wheels on PyPI, whose files lie as in NVIDIA's own toolkit already. Nothing outside DEST
# is changed. Running it again on a finished DEST does nothing. For V100: install-cuda12.sh.
#
# Needs: Debian 12 or 13 on amd64, python3 with pip.
set -euo pipefail

readonly want="layout 1, nvcc 13.0.88"  # change it when this script changes what it leaves in DEST

die() { echo "install-cuda13.sh: $*" >&2; exit 1; }
say() { echo "install-cuda13.sh: $*"; }

[[ $# -eq 1 && $1 != -* ]] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
python3 -m pip --version >/dev/null 2>&1 || die "needs pip: apt-get install python3-pip"
mkdir -p "$1"
dest=$(cd "$1" && pwd)
stamp=$dest/.optserve-cuda13
if [[ $(cat "$stamp" 2>/dev/null || true) == "$want" ]]; then
  say "$dest is up to date ($want)"
  exit 0
fi
if [[ ! -e $stamp && ! -e $dest/.optserve-cuda13.partial && -n $(ls -A "$dest") ]]; then
  die "$dest is not empty and was not made by this script"
fi
# A run that was stopped half way leaves this mark, so that the next one may start over in DEST.
touch "$dest/.optserve-cuda13.partial"
find "$dest" -mindepth 1 ! -name .optserve-cuda13.partial -delete
work=$dest/.work  # beside what it becomes: files are moved, not copied
mkdir "$work"
trap 'rm -rf "$work"' EXIT

cat >"$work/wheels.txt" <<'WHEELS'
nvidia-cuda-nvcc==13.0.88 --hash=sha256:56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03
nvidia-nvvm==13.0.88 --hash=sha256:c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0
nvidia-cuda-crt==13.0.88 --hash=sha256:2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4
nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
nvidia-cuda-cccl==13.0.85 --hash=sha256:e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649
nvidia-cublas==13.1.2.11 --hash=sha256:e1ad7b57879088bc79e31cc172891a64332f76ae733084d4aaaaa65499b9b3de
nvidia-nccl-cu13==2.29.7 --hash=sha256:edd81538446786ec3b73972543e53bb43bcaf0bfc8ef76cb679fcc390ffe136d
WHEELS
say "fetching $(wc -l <"$work/wheels.txt") wheels"
python3 -m pip download --quiet --disable-pip-version-check --no-cache-dir --no-deps --only-binary :all: \
    --require-hashes --dest "$work/wheels" --requirement "$work/wheels.txt"
for wheel in "$work/wheels"/*.whl; do
  python3 -m zipfile -e "$wheel" "$work/tree"
  rm "$wheel"
done

say "laying out $dest"
mv "$work"/tree/nvidia/cu13/* "$dest/"
mv "$work"/tree/nvidia/nccl/include/* "$dest/include/"
mv "$work"/tree/nvidia/nccl/lib/*.so.* "$dest/lib/"
ln -s lib "$dest/lib64"
chmod +x "$dest"/bin/* "$dest/nvvm/bin/cicc"
# The wheels carry only the versioned names; linkers and CMake look for the plain ones.
for lib in "$dest"/lib/*.so.*; do ln -sf "$(basename "$lib")" "${lib%%.so.*}.so"; done
mkdir "$dest/licenses"
for info in "$work"/tree/*.dist-info; do
  license=$(find "$info" -iname 'license*.txt' | head -n 1)
  if [[ -n $license ]]; then cp "$license" "$dest/licenses/$(basename "$info" .dist-info).txt"; fi
done
"$dest/bin/nvcc" --list-gpu-arch | grep -qx compute_90 || die "this nvcc does not know compute_90"
rm -r "$work" "$dest/.optserve-cuda13.partial"
echo "$want" >"$stamp"
say "done: $("$dest/bin/nvcc" --version | sed -n 's/.*\(V[0-9.]*\)$/nvcc \1/p'), $(du -sh "$dest" | cut -f1) in $dest"
