#!/usr/bin/env bash
# What `optserve convert` writes, opened by Hugging Face transformers: the same logits, to the bit. After
# `tests/run.sh --only release`; arguments are pytest's.
set -euo pipefail
cd "$(dirname "$0")/../../.."
venv=build/transformers-venv

if ! dpkg-query --show --showformat='${Status}' python3-torch 2>/dev/null | grep -q "install ok installed"; then
  as_root=()
  ((EUID == 0)) || as_root=(sudo)
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq \
    --no-install-recommends python3-torch
fi
# Debian's torch is 1.13; later releases of transformers want a later one.
[[ -x $venv/bin/pip ]] || /usr/bin/python3 -m venv --system-site-packages "$venv"
"$venv/bin/pip" install --quiet --no-compile --disable-pip-version-check transformers==4.40.2 'numpy<2' pytest==8.3.4
exec "$venv/bin/python" -m pytest -q -p no:cacheprovider --disable-warnings "$@" tests/clients/transformers_test
