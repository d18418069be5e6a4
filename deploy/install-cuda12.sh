#!/usr/bin/env bash
# Lays out a CUDA 12.4 toolkit that can build for V100 (sm_70) under DEST.
#
#   install-cuda12.sh [--compiler-only] DEST
#
# CUDA 13 cannot target sm_70, so optserve's V100 build uses nvcc 12.4. Its compiler comes from
# one Debian package (13 "trixie", non-free; unpacked, never installed), its headers and libraries
# from NVIDIA's wheels on PyPI. Nothing outside DEST is changed: no apt source, no package, no
# Python environment. Running it again on a finished DEST does nothing.
#
#   --compiler-only  leave out cuBLAS and NCCL (550 MB of downloads): enough to compile kernels,
#                    inspect their SASS and count their registers, not to build the server.
#
# Needs: Debian 12 or 13 on amd64, python3 with pip, g++ (6 to 13).
set -euo pipefail

readonly layout=1  # raise it when this script changes what it leaves in DEST
readonly deb_package=nvidia-cuda-toolkit
readonly deb_version='12.4.131~12.4.1-2'
readonly deb_sha256=cd5fe85aee38d108b315f408a688641478f2402622a10c677478eb7a6c4e5319
readonly deb_suite=trixie

die() { echo "install-cuda12.sh: $*" >&2; exit 1; }
say() { echo "install-cuda12.sh: $*"; }

libraries=yes
if [[ ${1:-} == --compiler-only ]]; then libraries=no; shift; fi
[[ $# -eq 1 && $1 != -* ]] || { sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[[ $(dpkg --print-architecture 2>/dev/null) == amd64 ]] || die "only Debian on amd64 is supported"
command -v gcc >/dev/null || die "needs gcc: apt-get install g++"
python3 -m pip --version >/dev/null 2>&1 || die "needs pip: apt-get install python3-pip"
mkdir -p "$1"
dest=$(cd "$1" && pwd)
stamp=$dest/.optserve-cuda12
want="layout $layout, nvcc $deb_version, libraries $libraries"
have=$(cat "$stamp" 2>/dev/null || true)
if [[ $have == "$want" || $have == "${want%no}yes" ]]; then
  say "$dest is up to date ($have)"
  exit 0
fi
if [[ -z $have && ! -e $dest/.optserve-cuda12.partial && -n $(ls -A "$dest") ]]; then
  die "$dest is not empty and was not made by this script"
fi

# A run that was stopped half way leaves this mark, so that the next one may start over in DEST.
touch "$dest/.optserve-cuda12.partial"
find "$dest" -mindepth 1 ! -name .optserve-cuda12.partial -delete
work=$dest/.work  # beside what it becomes: files are moved, not copied
mkdir "$work"
trap 'rm -rf "$work"' EXIT

# ---- the compiler -----------------------------------------------------------------------------
# The mirror this machine is set up with, in a private apt state that knows only trixie/non-free.
# shellcheck disable=SC2016  # apt expands these
mirror=$(apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' |
         sed -n 's/^Debian|Debian|//p' | head -n 1)
if [[ -z $mirror ]]; then  # 'apt-get update' never ran: read the sources themselves
  mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} 2>/dev/null |
           sed -n -E -e 's/^URIs:[[:space:]]*([^[:space:]]+).*/\1/p' \
                     -e 's/^deb[[:space:]]+(\[[^]]*\][[:space:]]+)?([^[:space:]]+).*/\2/p' |
           grep -E '/debian/?$' | head -n 1) || true
fi
[[ -n $mirror ]] || die "no Debian mirror among this machine's apt sources"
mkdir -p "$work"/apt/{sources,lists/partial,cache/archives/partial}
cat >"$work/apt/sources/cuda.sources" <<SOURCE
Types: deb
URIs: $mirror
Suites: $deb_suite
Components: non-free
Architectures: amd64
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCE
apt_private() {
  apt-get -q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$work/apt/sources" \
          -o Dir::State::lists="$work/apt/lists" -o Dir::Cache="$work/apt/cache" \
          -o APT::Sandbox::User=root -o Acquire::Retries=3 "$@"
}
say "fetching $deb_package $deb_version"
apt_private update >"$work/apt.log" 2>&1 || { cat "$work/apt.log" >&2; die "apt cannot read $deb_suite/non-free"; }
(cd "$work" && apt_private download "$deb_package=$deb_version") >>"$work/apt.log" 2>&1 ||
  { tail -n 5 "$work/apt.log" >&2; die "$deb_package $deb_version is not in $deb_suite/non-free"; }
deb=$(echo "$work/${deb_package}"_*.deb)
echo "$deb_sha256  $deb" | sha256sum --check --quiet || die "$deb_package has another checksum"
mkdir "$work/deb"
dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$work/deb" ./usr/bin ./usr/lib/nvidia-cuda-toolkit

# ---- headers and libraries --------------------------------------------------------------------
# All from CUDA 12.4.1, but for two archives (libcudart_static.a and libculibos.a) that only 12.9's
# runtime wheel has and that objects from any 12.x may link. NCCL 2.21.5 was built with CUDA 12.4.
cat >"$work/wheels.txt" <<'WHEELS'
nvidia-cuda-nvcc-cu12==12.4.131 --hash=sha256:e4c9a35435c3b0e36c6397c5696334c9ea6650e524736cbd1c5d345ea099bb04
nvidia-cuda-runtime-cu12==12.4.127 --hash=sha256:64403288fa2136ee8e467cdc9c9427e0434110899d07c779f25b5c068934faa5
nvidia-cuda-cccl-cu12==12.4.127.post1 --hash=sha256:2027fa5fc75fbee703bf24e8275a40a605cf94a3e8fef8a7187897d49b34facb
nvidia-cuda-profiler-api-cu12==12.4.127 --hash=sha256:7d80d1d8cfedc4b31b3df260f75e339a51322b25ff41f2a47edb5b2139b8a58f
nvidia-nvml-dev-cu12==12.4.127 --hash=sha256:f3d070140734992f018d46b5fc1663495898637534b94a87cec64bf12bdc584c
nvidia-nvtx-cu12==12.4.127 --hash=sha256:781e950d9b9f60d8241ccea575b32f5105a5baf4c2351cab5256a24869f12a1a
WHEELS
cat >"$work/static.txt" <<'WHEELS'
nvidia-cuda-runtime-cu12==12.9.79 --hash=sha256:25bba2dfb01d48a9b59ca474a1ac43c6ebf7011f1b0b8cc44f54eb6ac48a96c3
WHEELS
if [[ $libraries == yes ]]; then
  cat >>"$work/wheels.txt" <<'WHEELS'
nvidia-cublas-cu12==12.4.5.8 --hash=sha256:2fc8da60df463fdefa81e323eef2e36489e1c94335b5358bcb38360adf75ac9b
nvidia-nccl-cu12==2.21.5 --hash=sha256:8579076d30a8c24988834445f8d633c697d42397e92ffc3f63fa26766d25e0a0
WHEELS
fi
say "fetching $(cat "$work"/{wheels,static}.txt | wc -l) wheels"
for list in wheels static; do
  python3 -m pip download --quiet --disable-pip-version-check --no-cache-dir --no-deps \
      --only-binary :all: --require-hashes --dest "$work/$list" --requirement "$work/$list.txt"
  for wheel in "$work/$list"/*.whl; do
    python3 -m zipfile -e "$wheel" "$work/$list.tree"
    rm "$wheel"
  done
done

# ---- the layout of an NVIDIA toolkit ----------------------------------------------------------
say "laying out $dest"
target=$dest/targets/x86_64-linux
mkdir -p "$target"/{include,lib/stubs} "$dest"/{bin/crt,nvvm/bin,nvvm/libdevice}
ln -s targets/x86_64-linux/include "$dest/include"
ln -s targets/x86_64-linux/lib "$dest/lib64"
ln -s targets/x86_64-linux/lib "$dest/lib"

tools=$work/deb/usr/lib/nvidia-cuda-toolkit
for tool in __nvcc_device_query bin2c cu++filt cudafe++ cuobjdump fatbinary nvdisasm nvlink nvprune ptxas; do
  mv "$work/deb/usr/bin/$tool" "$dest/bin/"
done
mv "$tools/bin/nvcc" "$dest/bin/"          # /usr/bin/nvcc is Debian's wrapper: not that one
mv "$tools"/bin/crt/*.stub "$dest/bin/crt/"   # templates that nvcc fills in when it links device code
mv "$tools/bin/cicc" "$dest/nvvm/bin/"
mv "$tools/libdevice/libdevice.10.bc" "$dest/nvvm/libdevice/"
mv "$tools/compute-sanitizer" "$dest/"
ln -s ../compute-sanitizer/compute-sanitizer "$dest/bin/compute-sanitizer"
# Debian's profile names /usr/lib; this one keeps every path inside DEST.
cat >"$dest/bin/nvcc.profile" <<'PROFILE'

TOP              = $(_HERE_)/..

NVVMIR_LIBRARY_DIR = $(TOP)/nvvm/libdevice

LD_LIBRARY_PATH += $(TOP)/lib:
PATH            += $(TOP)/nvvm/bin:$(_HERE_):

INCLUDES        +=  "-I$(TOP)/$(_TARGET_DIR_)/include" $(_SPACE_)

LIBRARIES        =+ $(_SPACE_) "-L$(TOP)/$(_TARGET_DIR_)/lib$(_TARGET_SIZE_)/stubs" "-L$(TOP)/$(_TARGET_DIR_)/lib$(_TARGET_SIZE_)"

CUDAFE_FLAGS    +=
PTXAS_FLAGS     +=
PROFILE
echo '{"cuda": {"name": "CUDA SDK", "version": "12.4.1"}}' >"$dest/version.json"

for part in "$work"/wheels.tree/nvidia/*/; do
  find "$part" -name __init__.py -delete
  if [[ -d $part/include ]]; then cp -rl "$part/include/." "$target/include/"; fi
  if [[ -d $part/lib ]]; then cp -rl "$part/lib/." "$target/lib/"; fi
done
mv "$work"/static.tree/nvidia/cuda_runtime/lib/{libcudart_static,libculibos}.a "$target/lib/"
# nvcc always links libcudadevrt.a, which only kernels that launch kernels need, and nvlink 12.4
# refuses 12.9's. One object without code stands in for it (an archive with no member is refused).
gcc -c -x c /dev/null -o "$work/empty.o"
ar crs "$target/lib/libcudadevrt.a" "$work/empty.o"
mkdir "$dest/licenses"
for info in "$work"/wheels.tree/*.dist-info; do
  license=$(find "$info" -iname 'license*.txt' | head -n 1)
  if [[ -n $license ]]; then cp "$license" "$dest/licenses/$(basename "$info" .dist-info).txt"; fi
done
# The wheels carry only the versioned names; linkers and CMake look for the plain ones.
for lib in "$target"/lib/*.so.*; do
  ln -sf "$(basename "$lib")" "${lib%%.so.*}.so"
done

# Link-time stand-ins for what only a GPU driver brings. Never put lib64/stubs on a run path.
make_stub() {  # make_stub NAME PREFIX HEADER: every name in HEADER that starts with PREFIX
  grep -ohE "\\b$2[A-Z][A-Za-z0-9_]+" "$target/include/$3" | sort -u |
    sed 's/.*/void &(void) {}/' >"$work/stub.c"
  gcc -w -shared -fPIC -nostdlib -Wl,-soname,"$1.1" -o "$target/lib/stubs/$1" "$work/stub.c"
}
make_stub libcuda.so cu cuda.h
make_stub libnvidia-ml.so nvml nvml.h

"$dest/bin/nvcc" --list-gpu-arch | grep -qx compute_70 || die "this nvcc does not know compute_70"
rm -r "$work" "$dest/.optserve-cuda12.partial"
echo "$want" >"$stamp"
say "done: $("$dest/bin/nvcc" --version | sed -n 's/.*\(V[0-9.]*\)$/nvcc \1/p'), $(du -sh "$dest" | cut -f1) in $dest"
