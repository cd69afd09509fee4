#!/usr/bin/env bash
# Installs what is missing on a Debian machine; does nothing, quickly, where all is there.
. "$(dirname "$0")/lib.sh"

packages=(postgresql-15 postgresql-server-dev-15 libclang-dev clang pkg-config libssl-dev make sudo
    postgresql-15-pgaudit # for a test and the benchmark: it sits on the same hooks
    valgrind python3)     # to count instructions
# A server of the caller's own needs no Debian server, only the compiler's side.
if [ "$PG_CONFIG" != /usr/lib/postgresql/15/bin/pg_config ]; then
    packages=(libclang-dev clang pkg-config libssl-dev make)
fi

missing=()
installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${packages[@]}" 2>/dev/null || true)
for package in "${packages[@]}"; do
    grep -qx "$package installed" <<<"$installed" || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    step "apt: ${missing[*]}"
    # Debian's package makes and starts a cluster "main" on port 5432. Nobody asked for that one: say
    # no while we install, and leave an existing one alone.
    drop_in=/etc/postgresql-common/createcluster.d/audit_ext_setup.conf
    as_root mkdir -p "$(dirname "$drop_in")"
    as_root sh -c "echo 'create_main_cluster = false' >$drop_in"
    trap 'as_root rm -f "$drop_in"' EXIT
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${missing[@]}" </dev/null
    as_root rm -f "$drop_in"
    trap - EXIT
fi

command -v cargo >/dev/null || die "no cargo found" "install Rust 1.95 or newer: https://rustup.rs"

if [ "$(cargo pgrx --version 2>/dev/null)" != "cargo-pgrx $PGRX_VERSION" ]; then
    step "cargo-pgrx $PGRX_VERSION (about 4 minutes, once)"
    cargo install cargo-pgrx --version "$PGRX_VERSION" --locked --force
fi

[ -x "$PG_CONFIG" ] || die "no pg_config at $PG_CONFIG" "set PG_CONFIG to the server's pg_config"

# cargo-pgrx wants to be told which server it builds for. As root this makes no cluster.
config=${PGRX_HOME:-$HOME/.pgrx}/config.toml
major=$(pg_major)
if ! grep -qsE "^pg$major *= *\"$PG_CONFIG\"" "$config"; then
    if ! grep -qs "^pg$major *=" "$config" || [ -n "${PGRX_HOME:-}" ]; then
        step "cargo pgrx init --pg$major $PG_CONFIG"
        cargo pgrx init "--pg$major" "$PG_CONFIG" </dev/null
    fi
fi
