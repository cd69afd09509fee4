#!/usr/bin/env bash
# Whether an event costs the same as clients, texts, tables and the trail grow: target/bench/growth.json.
. "$(dirname "$0")/lib.sh"
dir=$(server_dir growth-run)
mkdir -p "$dir"
! is_root || chown postgres: "$dir"
exec env PG_CONFIG="$PG_CONFIG" PYTHONDONTWRITEBYTECODE=1 \
    python3 "$ROOT/pgrx-tests/bench/growth.py" --dir "$dir" --out "$TARGET/bench" "$@"
