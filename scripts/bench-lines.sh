#!/usr/bin/env bash
# Instructions, lines of the processor's cache and pages of audit_ext.so that a SELECT touches: a minute.
# As root.
. "$(dirname "$0")/lib.sh"
dir=$(server_dir lines-run)
mkdir -p "$dir"
! is_root || chown postgres: "$dir"
exec env PG_CONFIG="$PG_CONFIG" PYTHONDONTWRITEBYTECODE=1 \
    python3 "$ROOT/pgrx-tests/bench/lines.py" --dir "$dir" "$@"
