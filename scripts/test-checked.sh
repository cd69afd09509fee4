#!/usr/bin/env bash
# The cluster's tests against a build that checks each debug_assert!: what the paths of a statement take for
# granted (src/hooks/engine/calm.rs above all) is looked at there. Arguments go to the tests: a filter.
. "$(dirname "$0")/lib.sh"

# The build that is installed is of another kind than the stamp says.
install() {
    rm -f "$TARGET"/installed-*
    "$ROOT/scripts/install.sh"
}
trap install EXIT
CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true install
grep -q "assertion failed: asks::is_stirred" "$("$PG_CONFIG" --pkglibdir)/audit_ext.so" ||
    die "this build checks no assertions"
cd "$ROOT"
AUDIT_TEST_PG_CONFIG=$PG_CONFIG cargo test -p audit_cluster_tests -- --test-threads "${AUDIT_TEST_THREADS:-4}" "$@"
