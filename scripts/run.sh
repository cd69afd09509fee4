#!/usr/bin/env bash
# From nothing to statements in audit.log: builds, installs, starts a scratch cluster, plays an
# example and shows what was recorded. A second call takes seconds.
. "$(dirname "$0")/lib.sh"
"$ROOT/scripts/install.sh"
. "$ROOT/scripts/cluster.sh"
cd "$ROOT"

library=$(cksum <"$("$PG_CONFIG" --pkglibdir)/audit_ext.so")
if [ -d "$RUN/data" ] && [ "$(cat "$RUN/library" 2>/dev/null)" != "$library" ]; then
    step "the scratch cluster was made with another build: making a new one"
    ! cluster_running || cluster_stop
    rm -rf "$RUN"
fi
if [ ! -e "$RUN/library" ]; then
    step "new scratch cluster in $RUN"
    [ "$RUN" = "$TARGET/run" ] || say "($TARGET is out of reach for the servers' user, or its path is too long)"
    cluster_create
fi
if cluster_running; then
    say "the scratch cluster is running"
else
    cluster_start
fi
if [ ! -e "$RUN/library" ]; then
    cluster_psql -q -d postgres -c 'CREATE DATABASE demo'
    say "CREATE EXTENSION audit_ext;"
    cluster_psql -q -d demo -v ON_ERROR_STOP=1 -c 'CREATE EXTENSION audit_ext'
    printf '%s\n' "$library" >"$RUN/library"
fi

step "the example: scripts/example.sql (its errors are part of it)"
before=$(cluster_psql -d demo -v ON_ERROR_STOP=1 -Atc 'SELECT audit.flush()')
PGAPPNAME=example cluster_psql -d demo -e -f scripts/example.sql 2>&1 | sed 's/^/    /'

step "what audit.log holds of it"
cluster_psql -d demo -v ON_ERROR_STOP=1 -v before="${before:-0}" -q -f scripts/show.sql

cat <<TEXT
Look around:   psql -h $RUN -p $(cluster_port) -U postgres demo
Over TCP:      psql "host=127.0.0.1 port=$(cluster_port) user=postgres dbname=demo passfile=$RUN/passfile"
Then:          SELECT * FROM audit.log ORDER BY seq DESC LIMIT 20;
Server's log:  $RUN/log
Stop it:       make stop
TEXT
