#!/usr/bin/env bash
# Nanoseconds that a session spends in audit_ext.so for a statement, sampled by perf: five minutes. Once per
# change of the path of a statement, beside `make instructions`.
. "$(dirname "$0")/lib.sh"
command -v perf >/dev/null || {
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends linux-perf \
        </dev/null
}
dir=$(server_dir sampled-run)
mkdir -p "$dir"
! is_root || chown postgres: "$dir"
exec env PG_CONFIG="$PG_CONFIG" PYTHONDONTWRITEBYTECODE=1 \
    python3 "$ROOT/pgrx-tests/bench/sampled.py" --dir "$dir" "$@"
