# What the scripts share. Sourced, never run.
#
#   ROOT       the checkout
#   PG_CONFIG  the server that is built for and installed into (default: Debian's PostgreSQL 15)

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
PG_CONFIG=${PG_CONFIG:-/usr/lib/postgresql/15/bin/pg_config}
PGRX_VERSION=0.18.1
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}

# A non-login shell of a fresh machine may not have rustup's folder in its PATH.
command -v cargo >/dev/null || PATH=$HOME/.cargo/bin:$PATH

say() { printf '%s\n' "$*"; }
step() { printf '\n== %s\n' "$*"; }
die() {
    printf 'error: %s\n' "$1" >&2
    [ -z "${2:-}" ] || printf 'hint:  %s\n' "$2" >&2
    exit 1
}

is_root() { [ "$(id -u)" = 0 ]; }

# Runs a command as root.
as_root() {
    if is_root; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root: $*" "run it as root, or install sudo"
    fi
}

# Runs a command as the owner of the clusters: PostgreSQL refuses to run as root, so root becomes
# the user postgres; anybody else runs servers as himself.
as_server() {
    if is_root; then
        runuser -u postgres -- "$@"
    else
        "$@"
    fi
}

# A folder for servers: $TARGET/NAME where the servers' user can reach it, else a folder of this
# checkout's own under /var/tmp (a checkout below /root, mode 0700, is the usual reason). Unix
# sockets live there too, and their path may have 107 bytes at most.
server_dir() {
    local parent=$TARGET
    mkdir -p "$parent"
    if [ "${#parent}" -gt 70 ] || ! (cd / && as_server test -x "$parent"); then
        parent=/var/tmp/audit_ext-$(id -u)-$(printf %s "$TARGET" | cksum | cut -d' ' -f1)
        mkdir -p "$parent"
    fi
    printf '%s/%s\n' "$parent" "$1"
}

# The version that Cargo.toml and all scripts agree on: 15 for ".../15.20".
pg_major() { "$PG_CONFIG" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/'; }
