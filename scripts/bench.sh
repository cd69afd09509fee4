#!/usr/bin/env bash
# Speed, cost and size beside the plain server and pgaudit; the table and bench.json are in target/bench.
#
#   scripts/bench.sh --quick                                two workloads, four configurations, three minutes
#   scripts/bench.sh                                        everything, 75 minutes
#   scripts/bench.sh --workloads select-64 --rounds 5       parts of it; --help tells more
. "$(dirname "$0")/lib.sh"
command -v python3 >/dev/null || {
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3 \
        </dev/null
}
# "If it installs": without it the table says that it is missing.
if is_root && [ ! -e "$("$PG_CONFIG" --pkglibdir)/pgauditlogtofile.so" ]; then
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "postgresql-$(pg_major)-pgauditlogtofile" </dev/null >/dev/null 2>&1 || true
fi
dir=$(server_dir bench-run)
mkdir -p "$dir"
! is_root || chown postgres: "$dir"
exec env PG_CONFIG="$PG_CONFIG" PYTHONDONTWRITEBYTECODE=1 \
    python3 "$ROOT/pgrx-tests/bench/bench.py" --dir "$dir" --out "$TARGET/bench" "$@"
