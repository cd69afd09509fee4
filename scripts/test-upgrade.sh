#!/usr/bin/env bash
# pg_upgrade carries the trail: a cluster of PG_CONFIG's major with a trail is upgraded; its events,
# its tree and its proofs are the same afterwards, an UPGRADE event goes on from them.
#
#   scripts/test-upgrade.sh [MAJOR…]       to which majors; default: 16 18
. "$(dirname "$0")/lib.sh"
"$ROOT/scripts/install.sh"
cd "$ROOT"
. "$ROOT/scripts/majors.sh"
majors=("$@")
[ ${#majors[@]} -gt 0 ] || majors=(16 18)

old_bin=$("$PG_CONFIG" --bindir)
port=${AUDIT_UPGRADE_PORT:-5790}

# start BIN DATA [OPTIONS]: start a server; stop BIN DATA; ask BIN SQL
start() { as_server "$1/pg_ctl" -D "$2" -w -s -l "$2/log" -o "-p $port -k $work ${3:-}" start; }
stop() { as_server "$1/pg_ctl" -D "$2" -w -s -m fast stop; }
ask() { as_server "$1/psql" -h "$work" -p "$port" -U postgres -X -A -t -v ON_ERROR_STOP=1 -c "$2" postgres; }

upgrade() { # upgrade MAJOR
    local new_config new_bin before after key
    new_config=$(config_of "$1")
    new_bin=$("$new_config" --bindir)
    PGRX_HOME=$dir/pgrx$1 PG_CONFIG=$new_config CARGO_TARGET_DIR=$TARGET/pg$1 "$ROOT/scripts/install.sh"
    chmod -R a+rX "$dir"
    work=$(mktemp -d /tmp/audit_upgrade.XXXXXX)
    is_root && chown postgres: "$work"
    for pair in "$old_bin old" "$new_bin new"; do
        set -- "$1" ${pair}
        as_server "$2/initdb" -D "$work/$3" -U postgres -A trust -E UTF8 --locale=C --no-sync >/dev/null
        printf '%s\n' "shared_preload_libraries = 'audit_ext'" "fsync = off" >>"$work/$3/postgresql.conf"
    done
    # 18 initialises with checksums, older majors don't: pg_upgrade wants the same.
    if [ "$1" -ge 18 ]; then as_server "$new_bin/pg_checksums" -D "$work/new" --disable >/dev/null; fi

    start "$old_bin" "$work/old"
    ask "$old_bin" "CREATE EXTENSION audit_ext" 2>/dev/null
    for i in $(seq 50); do ask "$old_bin" "SELECT $i AS run_before_the_upgrade" >/dev/null; done
    ask "$old_bin" "SELECT audit.flush()" >/dev/null
    key=$(ask "$old_bin" "SELECT details ->> 'key' FROM audit.log WHERE command = 'KEY'")
    ask "$old_bin" "SELECT audit.checkpoint()" >"$work/before"
    before=$(sed -n 2p "$work/before")
    stop "$old_bin" "$work/old"
    # Some builds of 15.20 stamp each column with an option that no other server knows, so that no table
    # at all could be upgraded. Without the library, whose guard is in the way.
    start "$old_bin" "$work/old" "-c shared_preload_libraries="
    for database in template1 postgres; do
        as_server "$old_bin/psql" -h "$work" -p "$port" -U postgres -X -q -d "$database" -c \
            "UPDATE pg_attribute SET attoptions = NULL WHERE attoptions::text LIKE '{pg_attver=%'"
    done
    # Nor can a table that asks for LZ4 be upgraded to a server built without it, as PyPI's are. What is stored
    # here is too short to be compressed.
    if ! "$new_config" --configure | grep -q -- --with-lz4; then
        as_server "$old_bin/psql" -h "$work" -p "$port" -U postgres -X -q -d postgres -c \
            "UPDATE pg_attribute SET attcompression = '' WHERE attcompression = 'l'"
    fi
    stop "$old_bin" "$work/old"

    # Whoever wants to go on with the old key moves it.
    as_server cp -a "$work/old/pg_audit" "$work/new/pg_audit"
    (cd "$work" && as_server "$new_bin/pg_upgrade" -b "$old_bin" -B "$new_bin" -d "$work/old" -D "$work/new" \
        -U postgres -s "$work" -p "$port" -P $((port + 1)) >"$work/pg_upgrade.log" 2>&1) ||
        { tail -30 "$work/pg_upgrade.log" >&2; die "pg_upgrade to $1 failed"; }

    start "$new_bin" "$work/new"
    ask "$new_bin" "SELECT 'after the upgrade'" >/dev/null
    ask "$new_bin" "SELECT audit.flush()" >/dev/null
    ask "$new_bin" "SELECT audit.checkpoint()" >"$work/after"
    after=$(sed -n 2p "$work/after")
    ask "$new_bin" "SELECT audit.consistency_proof($before, $after)" >"$work/proof"
    local problems upgraded kept
    problems=$(ask "$new_bin" "SELECT * FROM audit.verify()")
    kept=$(ask "$new_bin" "SELECT count(*) FROM audit.log WHERE statement LIKE '%run_before_the_upgrade'")
    upgraded=$(ask "$new_bin" "SELECT command, details ->> 'major', details -> 'parent' ->> 'major', (details -> 'parent' ->> 'size')::bigint = seq - 1 FROM audit.log WHERE command IN ('UPGRADE', 'FORK', 'RESTORE')")
    stop "$new_bin" "$work/new"

    [ -z "$problems" ] || die "audit.verify() after the upgrade to $1: $problems"
    [ "$kept" = 50 ] || die "$kept of 50 events are there after the upgrade to $1"
    [ "$upgraded" = "UPGRADE|$1|$(pg_major)|t" ] || die "the UPGRADE event to $1: $upgraded"
    # The old checkpoint, made before, holds against the new trail, without any server.
    "$old_bin/audit-verify" checkpoint "$work/before" --key "$key" >/dev/null
    "$old_bin/audit-verify" consistency "$work/proof" --old "$work/before" --new "$work/after"
    rm -rf "$work"
    say "pg_upgrade $(pg_major) to $1: the trail is carried, and verifies"
}

for major in "${majors[@]}"; do upgrade "$major"; done
