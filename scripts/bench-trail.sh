#!/usr/bin/env bash
# A trail of N events over ten days: the auditor's questions, audit.verify(), proofs, sizes, closing, memory.
#
#   scripts/bench-trail.sh                        ten million events: 3 to 20 minutes, 5 GB of disk
#   scripts/bench-trail.sh --events 100000        smaller
#   scripts/bench-trail.sh --export               also exports all of it and verifies the export
#   scripts/bench-trail.sh --drain 1000000        only the worker, on a backlog
. "$(dirname "$0")/lib.sh"
dir=$(server_dir bench-trail-run)
mkdir -p "$dir"
! is_root || chown postgres: "$dir"
exec env PG_CONFIG="$PG_CONFIG" PYTHONDONTWRITEBYTECODE=1 \
    python3 "$ROOT/pgrx-tests/bench/trail.py" --dir "$dir" --out "$TARGET/bench" "$@"
