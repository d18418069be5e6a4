#!/usr/bin/env bash
# Installs the Debian 12 packages that optserve needs, and only those that are missing.
#
#   deploy/install-deps.sh           what building and serving need
#   deploy/install-deps.sh --tests   and what the tests and checks need on top
#   deploy/install-deps.sh --deploy-tests   and what tests/deploy needs on top of that: it runs the real Prometheus, nginx,
#                                           HAProxy and Slurm. Debian starts such services as it installs them, where
#                                           systemd runs: not for a machine that serves something
#
# Runs apt-get as root, or through sudo. Prints what it is about to install; says nothing to do when all is there.
set -euo pipefail

packages=(
  g++ cmake ninja-build ccache pkg-config git curl ca-certificates
  libabsl-dev libfmt-dev libspdlog-dev nlohmann-json3-dev libpcre2-dev libcli11-dev prometheus-cpp-dev
  libboost1.81-dev libssl-dev
  libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc
)
test_packages=(libgtest-dev libgmock-dev clang libclang-rt-14-dev clang-format clang-tidy python3 python3-venv
  faketime fiu-utils jq strace chromium fonts-dejavu-core
  libopenmpi-dev openmpi-bin iproute2)
deploy_packages=(mmdebstrap util-linux file shellcheck dpkg-dev prometheus nginx-light haproxy
  slurmd slurmctld slurm-client munge systemd)

case "${1:-}" in
  "") ;;
  --tests) packages+=("${test_packages[@]}") ;;
  --deploy-tests) packages+=("${test_packages[@]}" "${deploy_packages[@]}") ;;
  *) echo "install-deps: unknown option '$1'; there are --tests and --deploy-tests" >&2; exit 2 ;;
esac

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null || true)
  [[ $status == "install ok installed" ]] || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
  echo "install-deps: all ${#packages[@]} packages are already installed"
  exit 0
fi

as_root=()
if ((EUID != 0)); then
  command -v sudo >/dev/null || { echo "install-deps: run this as root, or install sudo; missing: ${missing[*]}" >&2; exit 2; }
  as_root=(sudo)
fi
echo "install-deps: installing ${missing[*]}"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}"
