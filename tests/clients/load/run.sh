#!/usr/bin/env bash
# guidellm and aiperf against the release build and the demo model: 24 requests each, and what they have counted checked.
# Not part of tests/run.sh, because their environments take 6.5 GB (guidellm brings torch). From the root of the tree,
# after tests/run.sh --only release:
#
#   tests/clients/load/run.sh
set -euo pipefail
cd "$(dirname "$0")/../../.."
for client in guidellm==0.8.1 aiperf==0.13.0; do
  venv=build/${client%%==*}-venv
  [[ -x $venv/bin/pip ]] || /usr/bin/python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "$client"
done
[[ -x build/test-venv/bin/pytest ]] || tests/run.sh --only install
exec build/test-venv/bin/python -m pytest -q -p no:cacheprovider tests/clients/load "$@"
