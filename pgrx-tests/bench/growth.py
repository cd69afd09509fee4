#!/usr/bin/env python3
"""Whether the cost of an event stays the same as things grow (spec/performance.md): clients, distinct
texts, tables, and the trail itself. Called by scripts/bench-growth.sh; writes growth.json.

Each step is measured on a server with audit_ext at `all` and on a plain one, in turns, and the two are
compared: CPU of the whole server per statement.
"""

import argparse
import json
import random
import signal
import sys
import time
from pathlib import Path

from bench import pgbench
from report import interval
from server import Server, clear, make_template, remove, wait_for_calm
from workloads import ACCOUNTS, CONFIGURATIONS, SCALE, SELECT, VANILLA, Workload

FIRST_PORT = 54700
CONFIGURATION = "audit_ext all"
TEXTS = 10_000
TABLES = 1_000

# The digits make the text; what is executed is the same.
ONE_TEXT = "SELECT 1000000000 + length('some text of a statement');\n"
MANY_TEXTS = f"\\set n random(1, {TEXTS})\nSELECT 1000000000 + :n + length('some text of a statement');\n"
ONE_TABLE = "\\set id random(1, 10)\nSELECT note FROM many_1 WHERE id = :id;\n"
MANY_TABLES = f"\\set n random(1, {TABLES})\n\\set id random(1, 10)\nSELECT note FROM many_:n WHERE id = :id;\n"
MAKE_TABLES = f"""DO $$ BEGIN FOR i IN 1 .. {TABLES} LOOP
    EXECUTE format('CREATE TABLE many_%s (id int PRIMARY KEY, note text)', i);
    IF i % 100 = 0 THEN COMMIT; END IF;
END LOOP; END $$"""


def select(clients):
    return Workload(f"clients-{clients}", f"pgbench -S, prepared, {clients} clients", SELECT, {"READ": 1}, clients=clients)


def simple(name, title, script):
    return Workload(name, title, script, {"READ": 1}, protocol="simple")


# What grows, and its steps; a step is compared with the first of its series.
SERIES = {
    "clients": [select(clients) for clients in (1, 4, 16, 64)],
    "texts": [simple("texts-1", "1 text", ONE_TEXT), simple("texts-10000", "10,000 texts", MANY_TEXTS)],
    "tables": [simple("tables-1", "1 table", ONE_TABLE), simple("tables-1000", "1,000 tables", MANY_TABLES)],
}


def fill_trail(server, events):
    """Statements of a DO loop until the trail has so many events."""
    while (missing := events - server.last_seq()) > 0:
        loops = min(missing, 1_000_000)
        server.sql(
            f"DO $$ DECLARE b int; BEGIN FOR i IN 1 .. {loops} LOOP "
            f"SELECT abalance INTO b FROM pgbench_accounts WHERE aid = i % {ACCOUNTS} + 1; END LOOP; END $$"
        )
        server.flush()


def run(server, workload, seconds, scratch):
    """CPU µs per statement, in the end of all who took part."""
    wait_for_calm(10)
    server.flush()
    server.quiet()
    trail = server.configuration.kept == "trail"
    seq, cpu = server.last_seq() if trail else 0, server.cpu()
    transactions, _, latencies, _ = pgbench(server, workload, seconds, scratch)
    server.flush()
    server.quiet()
    cpu = server.cpu() - cpu
    if trail and (recorded := server.recorded_in_trail(seq)) != transactions:
        raise RuntimeError(f"{workload.name}: {transactions} executed, {recorded} recorded")
    return cpu * 1e6 / transactions, latencies[int(len(latencies) * 0.99)]


def measure(args, servers, title, workload, scratch, out):
    taken = {name: [] for name in servers}
    for server in servers.values(): # its plans, its texts, its tables
        pgbench(server, workload, 2, scratch)
    for _ in range(args.rounds):
        order = list(servers)
        random.shuffle(order)
        for name in order:
            taken[name].append(run(servers[name], workload, args.seconds, scratch))
    ours, plain = taken[CONFIGURATION], taken[VANILLA]
    added = interval([a[0] - b[0] for a, b in zip(ours, plain)])
    worst = interval([a[1] / b[1] for a, b in zip(ours, plain)])
    out.append({"step": title, "plain_us": interval([b[0] for b in plain]), "added_us": added, "p99_ratio": worst})
    low, high = (f"{v:.2f}" if v is not None else "–" for v in added[1:])
    print(f"{title:38} plain {out[-1]['plain_us'][0]:8.2f} µs   added {added[0]:6.2f} µs [{low}, {high}]   p99 × {worst[0]:.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dir", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--events", default="10000,1000000,10000000", help="sizes of the trail")
    parser.add_argument("--series", default=",".join(["trail", *SERIES]), help="which things grow")
    args = parser.parse_args()
    folder, out_folder, out = Path(args.dir), Path(args.out), []
    clear(folder)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    make_template(folder / "template")
    scratch = folder / "pgbench"
    scratch.mkdir()
    chosen = [c for c in CONFIGURATIONS if c.name in (VANILLA, CONFIGURATION)]
    servers = {
        c.name: Server(folder / f"server{i}", folder / "template", c, FIRST_PORT + i)
        for i, c in enumerate(chosen)
    }
    try:
        for server in servers.values():
            server.start()
            server.fill(SCALE)
            server.sql(MAKE_TABLES)
            server.warm()
        # The trail first, as every step adds to it. (The others find one of ten million.)
        for name in args.series.split(","):
            if name != "trail":
                for workload in SERIES[name]:
                    measure(args, servers, workload.title, workload, scratch, out)
                continue
            for events in map(int, args.events.split(",")):
                fill_trail(servers[CONFIGURATION], events)
                measure(args, servers, f"trail of {servers[CONFIGURATION].last_seq():,} events", select(4), scratch, out)
        if servers[CONFIGURATION].lost():
            raise RuntimeError("records were lost")
    finally:
        for server in servers.values():
            server.stop()
        for left in folder.glob("*"):
            remove(left)
    out_folder.mkdir(parents=True, exist_ok=True)
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    (out_folder / "growth.json").write_text(json.dumps({"at": at, "rounds": args.rounds, "seconds": args.seconds, "steps": out}, indent=1) + "\n")
    print(f"{out_folder}/growth.json")


if __name__ == "__main__":
    main()
