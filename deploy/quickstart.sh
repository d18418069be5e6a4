#!/usr/bin/env bash
# From a fresh clone to a served model: installs what is missing, builds, serves the bundled demo model, shows a
# completion that went through the server, and stays up until Ctrl-C or SIGTERM.
#
#   deploy/quickstart.sh                     on 127.0.0.1:8000 (gRPC on the next port)
#   OPTSERVE_PORT=9000 deploy/quickstart.sh
set -euo pipefail
cd "$(dirname "$0")/.."

readonly port=${OPTSERVE_PORT:-8000}
readonly url=http://127.0.0.1:$port
readonly binary=build/release/optserve
readonly request='{"prompt": "It is a truth universally acknowledged", "max_tokens": 24, "temperature": 0}'

say() { printf '\n== %s\n' "$*"; }
fail() { echo "quickstart: $*" >&2; exit 2; }

[[ $port =~ ^[0-9]+$ ]] && ((port >= 1 && port <= 65534)) || fail "OPTSERVE_PORT is '$port'; it must be a port from 1 to 65534"
# Asked before the build, which takes minutes.
if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
  fail "port $port is in use; choose another one: OPTSERVE_PORT=$((port + 10)) deploy/quickstart.sh"
fi

say "1/3 packages"
bash deploy/install-deps.sh

say "2/3 building $binary"
launcher=()
if command -v ccache >/dev/null; then launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache); fi
cmake --preset release -DOPTSERVE_TESTS=OFF "${launcher[@]}" --log-level=WARNING
cmake --build build/release --target optserve

say "3/3 serving deploy/demo-model"
set -m  # a process group of its own: Ctrl-C reaches this script alone, which then stops the server once
"$binary" serve deploy/demo-model --port "$port" --grpc-port "$((port + 1))" &
server=$!
stop() { kill -TERM "$server" 2>/dev/null || true; }
trap stop INT TERM EXIT

until curl --silent --fail --output /dev/null "$url/readyz"; do
  kill -0 "$server" 2>/dev/null || { wait "$server"; exit; }  # it has said why; its exit code is ours
  sleep 0.1
done

say "a completion"
echo "\$ curl $url/v1/completions -H 'Content-Type: application/json' -d '$request'"
curl --silent --show-error --fail-with-body "$url/v1/completions" -H 'Content-Type: application/json' -d "$request"
printf '\n\nThe server stays up; Ctrl-C stops it.\n'

# A signal interrupts wait; asked again, it gives the exit code of the server itself, which is ours too.
code=0
wait "$server" || code=$?
if ((code > 128)); then code=0; wait "$server" || code=$?; fi
trap - EXIT
exit "$code"
