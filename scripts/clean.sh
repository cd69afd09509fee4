#!/usr/bin/env bash
# Removes what was built and the scratch cluster. The installed extension stays in the server.
. "$(dirname "$0")/lib.sh"
"$ROOT/scripts/stop.sh"
. "$ROOT/scripts/cluster.sh"
rm -rf "$RUN" "$(server_dir majors)" "$(server_dir pg-regress)" "$(server_dir bench-run)"
cd "$ROOT" && cargo clean
