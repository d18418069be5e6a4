#!/usr/bin/env bash
# The same workload on the same machine, ours against others, in interleaved pairs. From the root of the tree, after
# tests/run.sh --only release; options are peers.py's:
#
#   tests/bench/peers/run.sh
#
# PyTorch comes from Debian (apt-get install python3-torch), because PyPI's brings gigabytes for GPUs.
set -euo pipefail
cd "$(dirname "$0")/../../.."
/usr/bin/python3 -c 'import torch' 2>/dev/null || { echo "run.sh: apt-get install python3-torch" >&2; exit 2; }
venv=build/peers-venv
[[ -x $venv/bin/pip ]] || /usr/bin/python3 -m venv --system-site-packages "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check transformers==4.46.3 ctranslate2==4.6.0
exec "$venv/bin/python" tests/bench/peers/peers.py "$@"
