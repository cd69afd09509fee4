#!/usr/bin/env bash
# Every test there is: the pure part, the ring's protocol under loom, real clusters, and what a
# statement costs in instructions.
# All of them run even where an earlier one fails; the exit code tells.
. "$(dirname "$0")/lib.sh"
"$ROOT/scripts/install.sh"
cd "$ROOT"
failed=()
run() { # run NAME COMMAND…
    step "$1"
    local name=$1
    shift
    "$@" </dev/null || failed+=("$name")
}

# Whatever needs no server, so that a new package is never forgotten here.
run "pure part" cargo test --no-fail-fast --workspace --exclude audit_ext --exclude audit_cluster_tests
run "ring under loom" env RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR="$TARGET/loom" \
    cargo test -p audit_core --release --lib loom
run "clusters of PostgreSQL $(pg_major)" env AUDIT_TEST_PG_CONFIG="$PG_CONFIG" \
    cargo test -p audit_cluster_tests -- --test-threads "${AUDIT_TEST_THREADS:-3}"
run "instructions per statement" "$ROOT/scripts/instructions.sh"

[ ${#failed[@]} = 0 ] || die "failed: $(printf '%s; ' "${failed[@]}")"
