#!/usr/bin/env bash
# guidellm and aiperf against the release build. Not part of tests/run.sh, because their environments take 6.5 GB (guidellm
# brings torch). From the root of the tree, after tests/run.sh --only release:
#
#   tests/clients/load/run.sh                        24 requests each at the demo model, and what they have counted checked
#   tests/clients/load/run.sh agreement [options]    optserve bench against aiperf in turns, and the ratios of what they
#                                                    report; --clients aiperf guidellm, --help for the rest
set -euo pipefail
cd "$(dirname "$0")/../../.."

install_client() {  # NAME
  local versions="guidellm==0.8.1 aiperf==0.13.0" venv=build/$1-venv wanted
  wanted=$(tr ' ' '\n' <<<"$versions" | grep "^$1==")
  [[ -x $venv/bin/pip ]] || /usr/bin/python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "$wanted"
}

[[ -x build/test-venv/bin/pytest ]] || tests/run.sh --only install
if [[ ${1:-} == agreement ]]; then
  shift
  [[ " $* " == *" guidellm "* ]] && install_client guidellm
  [[ " $* " == *" --clients guidellm "* && " $* " != *" aiperf "* ]] || install_client aiperf
  exec build/test-venv/bin/python tests/clients/load/agreement.py "$@"
fi
install_client guidellm
install_client aiperf
exec build/test-venv/bin/python -m pytest -q -p no:cacheprovider tests/clients/load "$@"
