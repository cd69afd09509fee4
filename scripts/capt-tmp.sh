#!/usr/bin/env bash
# PostgreSQL's own regression suite, twice on the same source: on the plain server, and with
# audit_ext preloaded at level "all". Every file of output must be the same in both; and the
# trail must hold what the suite did. Both runs use the same folder and port, so that no path differs.
#
#   SUITE_SCHEDULE  another schedule than parallel_schedule, e.g. a file with "test: boolean"
#   KEEP=1          leaves the clusters, logs and outputs where they are, also on success
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

bin=$("$PG_CONFIG" --bindir)
major=$(pg_major)
library=$("$PG_CONFIG" --pkglibdir)/audit_ext.so
regress=$("$PG_CONFIG" --pkglibdir)/pgxs/src/test/regress/pg_regress
headers=$("$PG_CONFIG" --includedir-server)
[ -e "$library" ] || die "$library is missing" "make install"
[ -x "$regress" ] || die "$regress is missing" "it is in Debian's postgresql-server-dev-$major"
[ -e "$headers/postgres.h" ] || die "$headers/postgres.h is missing" \
    "it is in Debian's postgresql-server-dev-$major"
case $major in # which release of Debian has the source
15) suite=bookworm ;;
17) suite=trixie ;;
*) die "no source package of PostgreSQL $major is known" "there are 15 and 17" ;;
esac

# --- the source: newest version of Debian's source package that downloads -------------------------

source_dir=$TARGET/postgres-source-$major
fetch_source() {
    local apt=$TARGET/apt-$suite url versions version archive
    local -a get
    rm -rf "$source_dir" "$apt"
    mkdir -p "$source_dir" "$apt/lists/partial" "$apt/cache/archives/partial"
    url=http://deb.debian.org
    cat >"$apt/sources.list" <<LIST
deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $url/debian $suite main
deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $url/debian $suite-updates main
deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $url/debian-security $suite-security main
LIST
    # Nothing of the machine's own apt configuration is read for the lists, or written.
    get=(-o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache"
        -o APT::Sandbox::User= -o Acquire::Retries=2)
    apt-get "${get[@]}" -qq -o APT::Update::Error-Mode=any update ||
        die "Debian's source lists are unreachable ($suite)" "this test needs $url"
    versions=$(apt-cache "${get[@]}" showsrc "postgresql-$major" |
        sed -n 's/^Version: //p' | sort -ruV)
    [ -n "$versions" ] || die "Debian $suite has no source package postgresql-$major"
    for version in $versions; do
        say "source package postgresql-$major $version"
        if (cd "$source_dir" && apt-get "${get[@]}" -qq source --download-only \
            "postgresql-$major=$version"); then
            archive=$(find "$source_dir" -name '*.orig.tar.*' ! -name '*.asc' -print -quit)
            [ -n "$archive" ] || die "no upstream archive in the source package $version"
            tar -xf "$archive" -C "$source_dir" --strip-components=1 --wildcards \
                '*/src/test/regress' '*/contrib/spi'
            rm -f "$archive"
            printf '%s\n' "$version" >"$source_dir/version"
            return
        fi
        say "it does not download; trying the next older one"
    done
    die "no version of the source package postgresql-$major downloads" "tried: $(echo $versions)"
}
[ -e "$source_dir/version" ] || { step "source of PostgreSQL $major"; fetch_source; }

# --- what both runs use ---------------------------------------------------------------------------

dir=$(server_dir pg-regress)
run=$dir/run # data/, results/, log and socket of the run that is on
port=6050
mode=none
running() { # not by pg_ctl, which takes a zombie for a server
    local pid
    pid=$(head -n 1 "$run/data/postmaster.pid" 2>/dev/null) || return 1
    grep -qsE '^State:[[:space:]]+[^ZX]' "/proc/$pid/status"
}
server() { # server start|stop
    (cd / && as_server "$bin/pg_ctl" -D "$run/data" -l "$run/log" -w -t 120 -m fast "$1" \
        >/dev/null </dev/null) || {
        tail -n 20 "$run/log" >&2
        die "the server did not $1 (run: $mode)" "$run/log"
    }
}
finish() {
    local status=$?
    ! running || (cd / && as_server "$bin/pg_ctl" -D "$run/data" -w -m immediate stop >/dev/null) || true
    [ "$status" != 0 ] || [ -n "${KEEP:-}" ] || rm -rf "$dir"
}
! running || die "a server is running in $run" "another test-postgres, or a killed one: stop it first"
trap finish EXIT
# A script that is told to end must stop its server.
trap 'exit 130' INT TERM

step "suite of PostgreSQL $(cat "$source_dir/version") against $("$PG_CONFIG" --version)"
rm -rf "$dir"
mkdir -p "$dir/lib" "$dir/plain" "$dir/audited"
cp -r "$source_dir/src/test/regress" "$dir/suite"
# The suite asks for these three under --dlpath; built from its own source, for this server.
for module in src/test/regress/regress contrib/spi/refint contrib/spi/autoinc; do
    "${CC:-cc}" -O1 -shared -fPIC -w -I"$headers" -I"$(dirname "$source_dir/$module")" \
        -o "$dir/lib/$(basename "$module").so" "$source_dir/$module.c"
done
schedule=${SUITE_SCHEDULE:-$dir/suite/parallel_schedule}
[ -r "$schedule" ] || die "no schedule $schedule"
cp "$schedule" "$dir/schedule"
tests=$(sed -n 's/^test: *//p' "$dir/schedule" | wc -w)
chmod -R a+rX "$dir"
! is_root || chown -R postgres: "$dir"

psql_run() { "$bin/psql" -X -A -t -q -v ON_ERROR_STOP=1 -h "$run" -p "$port" -U postgres -d postgres "$@"; }

# run_suite MODE: leaves the outputs in $dir/MODE/results
run_suite() {
    local began
    mode=$1
    as_server rm -rf "$run"
    as_server mkdir -p "$run/out"
    (cd / && as_server "$bin/initdb" -D "$run/data" -U postgres -A trust -N -E UTF8 --locale=C >/dev/null)
    as_server sh -c "cat >>'$run/data/postgresql.conf'" <<CONF
port = $port
listen_addresses = ''
unix_socket_directories = '$run'
fsync = off
max_prepared_transactions = 10
CONF
    if [ "$mode" = audited ]; then
        as_server sh -c "echo \"shared_preload_libraries = 'audit_ext'\" >>'$run/data/postgresql.conf'"
    fi
    server start
    if [ "$mode" = audited ]; then
        psql_run -c 'CREATE EXTENSION audit_ext' 2>/dev/null
        [ "$(psql_run -c 'SHOW audit.level')" = all ] || die "audit.level is not all"
    fi
    began=$SECONDS
    # Its exit status says whether the outputs are those of the source's expected/: not our question.
    (cd / && as_server "$regress" --inputdir="$dir/suite" --outputdir="$run/out" --dlpath="$dir/lib" \
        --bindir="$bin" --host="$run" --port="$port" --user=postgres --dbname=regression \
        --max-connections=20 --schedule="$dir/schedule" </dev/null >"$dir/$mode/summary" 2>&1) || true
    say "$mode: $((SECONDS - began)) s; $(sed -n 's/^ *\([0-9A].* tests .*\.\) *$/\1/p' "$dir/$mode/summary")"
    if [ "$mode" = audited ]; then
        psql_run -F ' ' -c 'SELECT audit.flush()' >/dev/null
        psql_run -F ' ' -c "SELECT count(*), count(*) FILTER (WHERE outcome = 'failed'),
                   count(DISTINCT command), count(*) FILTER (WHERE depth > 0)
            FROM audit.log WHERE database_name = 'regression' AND class <> 'SESSION'" >"$dir/events"
        psql_run -F ' ' -c 'SELECT dropped, gaps, panics FROM audit.worker_status()' >"$dir/lost"
        psql_run -c 'SELECT last_error FROM audit.worker_status()' >"$dir/last_error"
    fi
    server stop
    as_server mv "$run/out/results" "$dir/$mode/results"
    as_server mv "$run/log" "$dir/$mode/log"
}
run_suite plain
run_suite audited

# --- what must be true ----------------------------------------------------------------------------

bad=0
wrong() { printf 'wrong: %s\n' "$1" >&2; bad=1; }
count_outputs() { find "$dir/$1/results" -name '*.out' | wc -l; }
compared=0
differing=()
for output in "$dir/plain/results"/*.out; do
    compared=$((compared + 1))
    name=$(basename "$output" .out)
    if ! cmp -s "$output" "$dir/audited/results/$name.out"; then
        differing+=("$name")
        diff -u "$output" "$dir/audited/results/$name.out" >>"$dir/differences" || true
    fi
done
[ "$compared" = "$tests" ] || wrong "$tests tests in the schedule, $compared outputs of the plain server"
[ "$(count_outputs audited)" = "$tests" ] ||
    wrong "$tests tests in the schedule, $(count_outputs audited) outputs of the audited server"
[ ${#differing[@]} = 0 ] || {
    wrong "outputs differ: ${differing[*]} (plain - against audited +, $dir/differences)"
    head -n 60 "$dir/differences" >&2
}
# Two runs that both fail at once agree, too: nearly all of them must be what the source expects.
passed=$(grep -cE '(^ok |\.\.\. ok )' "$dir/plain/summary" || true)
[ $((passed * 10)) -ge $((tests * 9)) ] ||
    wrong "only $passed of $tests tests pass on the plain server: $dir/plain/summary"
crashed=$(grep -hE 'terminated by signal|PANIC:|TRAP:' "$dir/audited/log" || true)
[ -z "$crashed" ] || wrong "the audited server crashed: $crashed"
read -r events failures commands nested <"$dir/events"
# The suite fails on purpose, nests, and uses most commands there are.
if [ -z "${SUITE_SCHEDULE:-}" ]; then
    [ "$events" -ge 30000 ] && [ "$failures" -ge 3000 ] && [ "$commands" -ge 100 ] && [ "$nested" -ge 1000 ] ||
        wrong "too little on record: $events events, $failures failed, $commands commands, $nested nested"
else
    [ "$events" -gt 0 ] || wrong "nothing on record"
fi
read -r dropped gaps panics <"$dir/lost"
[ "$dropped $gaps $panics" = "0 0 0" ] ||
    wrong "records were lost: $dropped dropped, $gaps gaps, $panics panics"
[ -z "$(cat "$dir/last_error")" ] || wrong "the worker's last error: $(cat "$dir/last_error")"

say "$compared tests compared, ${#differing[@]} differ; $passed of $tests as the source expects them"
say "$events events recorded: $failures failed, $nested nested, $commands commands; lost: $dropped"
[ "$bad" = 0 ] || die "the audited server is not like the plain one" "all of it is in $dir"
step "the suite's output is the same with audit_ext"
