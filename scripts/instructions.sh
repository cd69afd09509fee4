#!/usr/bin/env bash
# Instructions per statement, counted by valgrind on a real server: the same whatever else the machine
# does. Fails where audit_ext executes over 10 % more than pgrx-tests/bench/instructions.json says.
#
#   scripts/instructions.sh             counts and compares
#   scripts/instructions.sh --accept    counts and makes the figures the committed ones
. "$(dirname "$0")/lib.sh"
figures=$ROOT/pgrx-tests/bench/instructions.json
dir=$(server_dir instructions-run)
if [ "${1:-}" = --accept ]; then
    options=(--out "$figures")
else
    options=(--out "$TARGET/bench/instructions.json" --check "$figures")
fi
mkdir -p "$dir"
! is_root || chown postgres: "$dir"
exec env PG_CONFIG="$PG_CONFIG" PYTHONDONTWRITEBYTECODE=1 \
    python3 "$ROOT/pgrx-tests/bench/instructions.py" --dir "$dir" "${options[@]}"
