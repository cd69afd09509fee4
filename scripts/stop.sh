#!/usr/bin/env bash
# Stops the scratch cluster of `make run`; harmless where none runs. Its data stays.
. "$(dirname "$0")/lib.sh"
. "$ROOT/scripts/cluster.sh"
if cluster_running; then
    cluster_stop
    say "stopped; make run starts it again, make clean removes it: $RUN"
else
    say "nothing to stop"
fi
