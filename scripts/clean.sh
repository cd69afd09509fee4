#!/usr/bin/env bash
# Removes what was built and the scratch cluster. The installed extension stays in the server.
. "$(dirname "$0")/lib.sh"
"$ROOT/scripts/stop.sh"
. "$ROOT/scripts/cluster.sh"
rm -rf "$RUN"
for servers in majors pg-regress bench-run bench-trail-run growth-run sampled-run lines-run instructions-run; do
    rm -rf "$(server_dir "$servers")"
done
cd "$ROOT" && cargo clean
