#!/usr/bin/env bash
# Leaves out every barrier of every kernel in turn, without building anything, and expects the tests to fail:
#
#   tests/cuda_emulator/drop_barriers.sh build/release/cuda_checked_test
#
# A barrier that nobody misses is superfluous, or untested. Prints one line a barrier and the count; fails if one survives.
set -uo pipefail
test=${1:?usage: drop_barriers.sh TEST_BINARY}

caught=0 all=0
for place in $(OPTSERVE_EMULATOR_LIST=1 "$test" | sed -n 's/^BARRIER //p'); do
  all=$((all + 1))
  if output=$(OPTSERVE_EMULATOR_DROP=$place timeout 300 "$test" --gtest_fail_fast 2>&1); then
    echo "$place: SURVIVED"
  else
    caught=$((caught + 1))
    echo "$place: $(grep -m1 -oE 'race: [a-z ]+|uninitialised|forbidden|divergent[a-z ]*|deadlock|Failure' <<<"$output")"
  fi
done
echo "$caught of $all barriers are missed when they are left out"
((all > 0 && caught == all))
