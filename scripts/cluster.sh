# The scratch cluster of `make run`: where it is, whether it runs, start and stop. Sourced after lib.sh.
#
#   RUN     its folder: data/ (the data directory), log, port, library (checksum of the library it
#           was made with), passfile; the unix socket is there too
#   Access  the unix socket trusts whoever may enter the folder (mode 0700: the servers' user and
#           root); TCP on 127.0.0.1 asks for the random password in passfile

RUN=$(server_dir run)
BIN=$("$PG_CONFIG" --bindir 2>/dev/null || true)

cluster_port() { cat "$RUN/port"; }

# By hand, because pg_ctl takes a zombie for a server: in a container whose process 1 collects no
# orphans, that is what a killed one remains.
cluster_running() {
    local pid
    pid=$(head -n 1 "$RUN/data/postmaster.pid" 2>/dev/null) || return 1
    grep -qsE '^State:[[:space:]]+[^ZX]' "/proc/$pid/status"
}

# Clears what a killed server left: its children end by themselves, its zombie's lock file doesn't.
cluster_clear() {
    local try pid
    for try in $(seq 100); do
        pid=$(find /proc -maxdepth 2 -name cwd -lname "$RUN/data" -print -quit 2>/dev/null || true)
        [ -n "$pid" ] || break
        sleep 0.1
    done
    pid=$(head -n 1 "$RUN/data/postmaster.pid" 2>/dev/null) || return 0
    ! grep -qsE '^State:[[:space:]]+[ZX]' "/proc/$pid/status" ||
        rm -f "$RUN/data/postmaster.pid" "$RUN"/.s.PGSQL.*
}

free_port() {
    local port
    for port in $(seq 54329 54429); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
    die "no free port from 54329 to 54429"
}

cluster_create() {
    local secret
    secret=$(head -c 18 /dev/urandom | base64)
    rm -rf "$RUN"
    mkdir -p "$RUN"
    free_port >"$RUN/port"
    printf '%s\n' "$secret" >"$RUN/password"
    printf '127.0.0.1:*:*:postgres:%s\n' "$secret" >"$RUN/passfile"
    chmod 600 "$RUN/passfile" "$RUN/password"
    if is_root; then
        chown -R postgres: "$RUN"
        # libpq takes a passfile only from its owner's hands; root is who connects.
        chown root: "$RUN/passfile"
    fi
    chmod 700 "$RUN"
    (cd / && as_server "$BIN/initdb" -D "$RUN/data" -U postgres -E UTF8 --locale=C.UTF-8 \
        --auth-local=trust --auth-host=scram-sha-256 --pwfile="$RUN/password" >/dev/null)
    rm -f "$RUN/password"
    as_server sh -c "cat >>'$RUN/data/postgresql.conf'" <<CONF
shared_preload_libraries = 'audit_ext'   # the one setting that audit_ext needs
listen_addresses = '127.0.0.1'
unix_socket_directories = '$RUN'
CONF
}

cluster_start() {
    local port
    cluster_clear
    port=$(cluster_port)
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
        port=$(free_port)
        printf '%s\n' "$port" >"$RUN/port"
    fi
    (cd / && as_server "$BIN/pg_ctl" -D "$RUN/data" -l "$RUN/log" -o "-p $port" -w -t 60 start \
        >/dev/null </dev/null) || { tail -n 20 "$RUN/log" >&2; die "the server did not start" "$RUN/log"; }
}

cluster_stop() { (cd / && as_server "$BIN/pg_ctl" -D "$RUN/data" -m fast -w -t 60 stop >/dev/null); }

cluster_psql() { "$BIN/psql" -X -h "$RUN" -p "$(cluster_port)" -U postgres "$@"; }
