"""Nanoseconds that a session spends in audit_ext.so for a statement, at each level: `perf` looks a few thousand
times a second where the session's process is. It says less than the benchmark, as it leaves out what audit_ext makes
slower elsewhere (calls into it, the server's code driven out of the caches), but says it to a few nanoseconds, where
the difference between two servers is good for some fifty: for whoever works on the path of a statement.

Servers are started anew in each round, and take turns. Called by scripts/bench-sampled.sh; needs Linux' perf.
"""

import argparse
import collections
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, stdev

from left_out import NESTED, OWN, STATEMENTS, session_of
from server import Server, clear, make_template, remove
from workloads import CONFIGURATIONS, SCALE

FIRST_PORT = 54700 # of unix sockets
LEVELS = ["audit_ext none", "audit_ext write", "audit_ext all"]
PER_SECOND = 4999


def sampled(session, statements, seconds, file):
    """Runs it for so long: (statements, {function: nanoseconds in audit_ext.so}, nanoseconds in the server's program)."""
    session.run(10 * statements)
    command = ["perf", "record", "-q", "-e", "cpu-clock", "-F", PER_SECOND, "-p", session.pid, "-o", file]
    perf = subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True)
    time.sleep(0.5)
    # What it samples before and after this is a session that waits, and so no sample.
    ran, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        session.run(10 * statements)
        ran += 10 * statements
    perf.send_signal(signal.SIGINT)
    _, said = perf.communicate()
    listed = subprocess.run(
        ["perf", "script", "-i", str(file), "-F", "ip,sym,dso"], capture_output=True, text=True
    )
    ours, server = collections.Counter(), 0
    for line in listed.stdout.splitlines():
        if match := re.match(r"\s*[0-9a-f]+ (.*) \((.*)\)$", line):
            if Path(match[2]).name == "audit_ext.so":
                ours[match[1].replace("audit_ext::hooks::", "")] += 1e9 / PER_SECOND
            elif Path(match[2]).name == "postgres":
                server += 1e9 / PER_SECOND
    if not server:
        raise RuntimeError(f"perf has seen nothing: {said}{listed.stderr}")
    return ran, ours, server


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dir", required=True, help="folder for the servers")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=6, help="of a turn")
    args = parser.parse_args()
    folder, chance = Path(args.dir), random.Random(6)
    clear(folder)
    make_template(folder / "template")
    chosen = [c for c in CONFIGURATIONS if c.name in LEVELS]
    servers = [Server(folder / f"server{i}", folder / "template", c, FIRST_PORT + i) for i, c in enumerate(chosen)]
    taken, functions = collections.defaultdict(list), collections.defaultdict(collections.Counter)
    try:
        for server in servers:
            server.start()
            server.fill(SCALE)
            server.stop("fast")
        for _ in range(args.rounds):
            order = list(servers)
            chance.shuffle(order)
            for server in order:
                server.start()
                server.warm()
                for what in (NESTED, OWN):
                    session = session_of(what, server)
                    ran, ours, own_code = sampled(session, STATEMENTS[what], args.seconds, folder / "perf.data")
                    session.close()
                    key = what, server.configuration.name
                    taken[key].append((sum(ours.values()) / ran, sum(ours.values()) / own_code))
                    for function, ns in ours.items():
                        functions[key][function] += ns / ran / args.rounds
                server.stop("fast")
    finally:
        for server in servers:
            server.stop()
        remove(folder)
    for (what, name), turns in taken.items():
        ns, share = zip(*turns)
        spread = stdev(ns) / len(ns) ** 0.5 if len(ns) > 1 else 0
        most = ", ".join(f"{function} {n:.0f}" for function, n in functions[what, name].most_common(8))
        print(f"{name}, {what}: {mean(ns):.0f} ns in audit_ext.so ({spread:.1f}), {mean(share):.2%} of the server's own: {most}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
