#!/usr/bin/env bash
# Every fault of the failure matrix SOAK times, and a mixed run of random kills for MINUTES.
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
export AUDIT_TEST_PG_CONFIG="$PG_CONFIG" AUDIT_SOAK="${SOAK:-50}" AUDIT_SOAK_MINUTES="${MINUTES:-10}"
step "faults, $AUDIT_SOAK times each"
# Shown as they go: an hour without a word would be taken for a hang.
cargo test -p audit_cluster_tests -- --nocapture --test-threads "${AUDIT_TEST_THREADS:-2}" \
    crash:: full:: stopped:: replay:: home:: copies:: ring_files:: inflight:: durability:: operations:: \
    large:: delivery::an_idle_reader </dev/null
