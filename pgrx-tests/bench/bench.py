#!/usr/bin/env python3
"""Speed, cost and size of audit_ext beside the plain server and pgaudit (spec/performance.md).

Each configuration has a server of its own. In each round all are started anew, in every third round made
anew, and take turns of a second (two with 64 clients) in each workload, so that what the machine does
meanwhile falls on all alike; one of them works at a time. What has narrow bars gets further rounds. Called by scripts/bench.sh; writes bench.json and bench.txt to --out.

A run whose trail does not hold exactly what was executed is void, and the benchmark fails.
"""

import argparse
import json
import os
import platform
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import chart
import left_out
import markdown
import report
from server import (
    Server, clear, machine_busy, make_template, pg_config, quiet, remove, wait_for_calm,
)
from workloads import (
    AGAIN, CONFIGURATIONS, NARROW, QUICK_CONFIGURATIONS, QUICK_WORKLOADS, SCALE, VANILLA, WORKLOADS,
)

FIRST_PORT = 54500 # of unix sockets, each in a folder of its own
# Rounds that a server's data directory lasts.
ROUNDS_OF_A_DIRECTORY = 3


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dir", required=True, help="folder for the servers")
    parser.add_argument("--out", required=True, help="folder for the results")
    parser.add_argument("--quick", action="store_true", help="-S and -N, four configurations, 3 x 4 s")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=int, help="turns of each configuration in a round (4 with --quick, else as the workload has it)")
    parser.add_argument("--more", type=int, help="rounds more where bars are narrow (none with --quick, else 29)")
    parser.add_argument("--workloads", help="comma-separated: " + ", ".join(w.name for w in WORKLOADS))
    parser.add_argument("--configurations", help="comma-separated: " + ", ".join(c.name for c in CONFIGURATIONS))
    parser.add_argument("--patience", type=int, default=20, help="seconds to wait for a calm machine before each run")
    parser.add_argument("--retries", type=int, default=2, help="of a run that others on the machine disturbed")
    parser.add_argument("--no-closed", action="store_true", help="leave out sizes after a partition is closed (minutes)")
    args = parser.parse_args()
    whole = not (args.quick or args.rounds or args.workloads or args.configurations)
    args.rounds = args.rounds or (3 if args.quick else 11)
    args.seconds = args.seconds or (4 if args.quick else None)
    args.more = args.more if args.more is not None else 29 if whole else 0

    def chosen(given, quick, everything):
        names = given.split(",") if given else quick if args.quick else [e.name for e in everything if e.name != AGAIN]
        unknown = set(names) - {e.name for e in everything}
        if unknown:
            parser.error(f"unknown: {', '.join(sorted(unknown))}")
        return [e for e in everything if e.name in names]

    args.workloads = chosen(args.workloads, QUICK_WORKLOADS, WORKLOADS)
    args.configurations = chosen(args.configurations, QUICK_CONFIGURATIONS, CONFIGURATIONS)
    if VANILLA not in [c.name for c in args.configurations]:
        parser.error(f"nothing to compare with: add {VANILLA}")
    return args


def available(configurations):
    """What is installed, and a note on what is not."""
    libraries = Path(pg_config("--pkglibdir"))
    found, notes = [], []
    for configuration in configurations:
        missing = [x for x in configuration.libraries if not (libraries / f"{x}.so").exists()]
        if not missing:
            found.append(configuration)
        elif "audit_ext" in missing:
            sys.exit(f"{libraries}/audit_ext.so is missing: make install")
        else:
            notes.append(f"{configuration.name} left out: {', '.join(missing)} is not installed")
    return found, notes


def pgbench(server, workload, seconds, folder):
    """Runs the workload; (transactions, tps, latencies in µs, CPU seconds of pgbench itself)."""
    script = folder / "script.sql"
    script.write_text(workload.script)
    for old in folder.glob("latency.*"):
        old.unlink()
    command = [server.bin / "pgbench", "-n", "-f", script, "-M", workload.protocol]
    command += ["-c", workload.clients, "-j", min(workload.clients, 4)]
    count = 1 if workload.once else workload.transactions
    command += ["-t", count] if count else ["-T", seconds]
    command += ["--log", "--log-prefix", folder / "latency", *workload.options, *server.connection()]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=quiet())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise RuntimeError(f"pgbench: {done.stderr[-2000:]}")
    facts = dict(
        line.split(None, 1) if ":" not in line else [part.strip() for part in line.split(":", 1)]
        for line in done.stdout.splitlines()
        if ":" in line
    )
    transactions = int(facts["number of transactions actually processed"].split("/")[0])
    failed = int(facts.get("number of failed transactions", "0").split()[0])
    tps = next(
        float(line.split("=")[1].split()[0]) for line in done.stdout.splitlines() if line.startswith("tps =")
    )
    latencies = sorted(
        int(line.split()[2]) for file in folder.glob("latency.*") for line in file.read_text().splitlines()
    )
    if failed or len(latencies) != transactions:
        raise RuntimeError(f"pgbench: {failed} failed, {transactions} run, {len(latencies)} logged")
    own = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return transactions, tps, latencies, own


def measure(server, workload, round_number, seconds, folder):
    """One run on one server."""
    configuration = server.configuration
    trail = configuration.kept == "trail"
    server.flush()
    server.quiet()
    server.empty_log()
    seq = server.last_seq() if trail else 0
    kept = server.trail_bytes() if trail else 0
    wal = server.wal()
    server.quiet()
    log = server.log_bytes()

    busy, cpu, worker, ended = machine_busy(), server.cpu(), server.worker_cpu(), server.ended_cpu()
    began = time.monotonic()
    transactions, tps, latencies, own = pgbench(server, workload, seconds, folder)
    server.flush() # what still waits to be stored is part of the cost
    server.quiet()
    took = time.monotonic() - began
    cpu, worker, ended = server.cpu() - cpu, server.worker_cpu() - worker, server.ended_cpu() - ended
    others = max(0.0, machine_busy() - busy - cpu - own)

    wal = server.wal_bytes(wal, server.wal())
    statements = transactions * sum(workload.statements.values())
    per_transaction = configuration.recorded(workload)
    expected = None if per_transaction is None else transactions * per_transaction
    recorded = events = None
    if trail:
        recorded = server.recorded_in_trail(seq)
        # Sessions' beginnings and ends are kept, too.
        events = server.last_seq() - seq if recorded else 0
        kept = server.trail_bytes() - kept
    elif configuration.kept:
        kept = server.log_bytes() - log
        recorded = events = server.recorded_in_log()
    void = None
    if recorded != expected:
        void = f"{expected} statements to record, {recorded} on record"
    elif trail and server.lost():
        void = f"{server.lost()} records lost"
    return {
        "workload": workload.name,
        "configuration": configuration.name,
        "round": round_number,
        "void": void,
        "seconds": took,
        "transactions": transactions,
        "statements": statements,
        "expected": expected,
        "recorded": recorded,
        "events": events,
        "cpu_seconds": cpu,
        "cpu_us": cpu * 1e6 / statements,
        "sessions_seconds": ended,
        "sessions_us": ended * 1e6 / statements,
        "worker_us": worker * 1e6 / events if trail and events else None,
        "tps": tps,
        "latencies": latencies,
        "kept_bytes": kept,
        "bytes_per_event": kept / events if events else None,
        "wal": wal,
        "wal_per_statement": wal / statements,
        # Share of the machine that somebody else used: the run is to be doubted where it is large.
        "others_cpu": others / took / os.cpu_count(),
    }


def combine(turns):
    """The turns of one configuration in one round, as one run."""
    one = dict(turns[0])
    del one["latencies"]
    latencies = sorted(taken for s in turns for taken in s["latencies"])
    one["p50_us"] = latencies[len(latencies) // 2]
    one["p99_us"] = latencies[int(len(latencies) * 0.99)] if len(latencies) >= 1000 else None
    for name in ("seconds", "transactions", "statements", "cpu_seconds", "sessions_seconds", "wal"):
        one[name] = sum(s[name] for s in turns)
    for name in ("expected", "recorded", "events", "kept_bytes"):
        one[name] = None if one[name] is None else sum(s[name] for s in turns)
    one["tps"] = sum(s["tps"] for s in turns) / len(turns)
    one["void"] = next((s["void"] for s in turns if s["void"]), None)
    one["cpu_us"] = one["cpu_seconds"] * 1e6 / one["statements"]
    one["sessions_us"] = one["sessions_seconds"] * 1e6 / one["statements"]
    one["wal_per_statement"] = one["wal"] / one["statements"]
    if one["events"]:
        one["bytes_per_event"] = one["kept_bytes"] / one["events"]
        if one["worker_us"] is not None:
            one["worker_us"] = sum(s["worker_us"] * s["events"] for s in turns) / one["events"]
    one["others_cpu"] = sum(s["others_cpu"] * s["seconds"] for s in turns) / one["seconds"]
    return one


def closed_size(args, template, configuration, workload, folder):
    """Bytes per event once the partition is closed: indexed, summarised, frozen."""
    server = Server(args.dir / "closed", template, configuration, FIRST_PORT + 99,
                    {"audit.partition_interval": "1min", "autovacuum_naptime": "1h"})
    args.running.append(server)
    server.start()
    server.fill(SCALE)
    # Begin with a fresh minute, so that one partition holds it all.
    time.sleep(60.5 - time.time() % 60)
    server.flush()
    seq = server.last_seq()
    pgbench(server, workload, 10, folder)
    server.flush()
    events = server.last_seq() - seq
    suffix = server.sql("SELECT suffix FROM audit.period WHERE starts_at <= now() AND now() < ends_at")
    deadline = time.monotonic() + 300
    while server.sql(f"SELECT closed_at IS NOT NULL FROM audit.period WHERE suffix = '{suffix}'") != "t":
        if time.monotonic() > deadline:
            raise RuntimeError(f"the partition {suffix} is not closed after five minutes")
        time.sleep(2)
        server.flush() # an event, so that the worker looks at the time
    size = server.trail_bytes(f"%\\_{suffix}")
    server.stop()
    remove(server.folder)
    args.running.remove(server)
    return size / events


def turn(server, workload, round_number, args, scratch):
    """A turn in a round; again where others on the machine disturbed it."""
    for _ in range(args.retries + 1):
        wait_for_calm(args.patience)
        one = measure(server, workload, round_number, workload.seconds, scratch)
        if one["void"] or one["others_cpu"] <= report.DISTURBED:
            break
    return one


def shuffled(things, chance):
    order = list(things)
    chance.shuffle(order)
    return order


def make_anew(servers, chance):
    """In another order each time: one whose files lie better would be faster all the time."""
    for server in shuffled(servers, chance):
        server.make()
        server.start()
        server.fill(SCALE)
        server.stop("fast")


def start(servers, chance):
    """In another order each time: when a server was started tells where its memory lies."""
    for server in shuffled(servers, chance):
        server.start()
        server.warm()


def play(number, servers, workloads, args, scratch, chance):
    """A round: each server in each workload. On servers just started: two that are the same in everything
    differ by 4 % for as long as they live (where their memory lies)."""
    start(servers, chance)
    for workload in shuffled(workloads, chance):
        turns = {server: [] for server in servers}
        if not workload.once: # its plans and tables are in the server's memory
            for server in servers:
                pgbench(server, replace(workload, transactions=100), 0, scratch)
        for _ in range(1 if workload.once else args.seconds or workload.turns):
            for server in shuffled(servers, chance): # in another order each time
                turns[server].append(turn(server, workload, number, args, scratch))
        for server in servers:
            yield combine(turns[server])


def play_all(servers, args, scratch, runs, sessions):
    """All rounds; adds what they measure to `runs`, and to `sessions` what single ones tell (left_out.py)."""
    chance = random.Random(6)
    narrow = [s for s in servers if s.configuration.name in NARROW]
    alone = [] if args.quick else [s for s in servers if s.configuration.name in left_out.CONFIGURATIONS]
    for number in range(1, args.rounds + args.more + 1):
        more = number > args.rounds
        workloads = [w for w in args.workloads if w.narrow or not more]
        playing = narrow if more else servers
        if number % ROUNDS_OF_A_DIRECTORY == 1:
            make_anew({*playing, *alone}, chance)
        for one in play(number, playing, workloads, args, scratch, chance):
            runs.append(one)
            print(
                f"[{number}/{args.rounds + args.more}] {one['workload']} {one['configuration']}: "
                f"{one['cpu_us']:.2f} µs, {one['tps']:,.0f} TPS, recorded {one['recorded']}, "
                f"others {one['others_cpu']:.0%}" + (f"  VOID: {one['void']}" if one["void"] else ""),
                flush=True,
            )
        for server in playing:
            server.stop("fast")
        for server in shuffled(alone, chance):
            server.start()
            server.warm()
            sessions += left_out.measure(server, number, chance, args.patience)
            server.stop("fast")


def run(args, notes):
    template = args.dir / "template"
    make_template(template)
    runs, closed, sessions = [], {}, []
    scratch = args.dir / "pgbench"
    scratch.mkdir()
    servers = [
        Server(args.dir / f"server{i}", template, configuration, FIRST_PORT + i)
        for i, configuration in enumerate(args.configurations)
    ]
    args.running += servers
    failed = None
    try:
        play_all(servers, args, scratch, runs, sessions)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        # What was measured until then is not lost.
        failed = error
        notes.append(f"ENDED in or after round {runs[-1]['round'] if runs else 1} of {args.rounds + args.more}: {error}")
    for server in servers:
        server.stop()
        args.running.remove(server)
        remove(server.folder)
    measured = [w for w in args.workloads if any(r["workload"] == w.name for r in runs)]
    for workload in measured:
        for configuration in args.configurations:
            if workload.closed and configuration.name == "audit_ext all" and not (args.quick or args.no_closed):
                print(f"{workload.name}: size of a closed partition", flush=True)
                closed[workload.name] = closed_size(args, template, configuration, workload, scratch)

    summaries, texts = {}, []
    for workload in measured:
        these = []
        for configuration in args.configurations:
            found = report.summarize(runs, workload.name, configuration.name) | {"name": configuration.name}
            if configuration.name == "audit_ext all":
                found["closed_bytes_per_event"] = closed.get(workload.name)
            summaries[workload.name, configuration.name] = found
            these.append(found)
        rounds = args.rounds + (args.more if workload.narrow else 0)
        texts.append(report.table(f"{workload.title}: {rounds} x {'once' if workload.once else f'{args.seconds or workload.turns} x {workload.seconds} s'}", these))
    void = [r for r in runs if r["void"]]
    doubtful = sum(r["others_cpu"] > report.DISTURBED for r in runs)
    if doubtful:
        notes.append(f"{doubtful} of {len(runs)} runs had more than 10 % of the machine taken by others; where three pairs are left, they don't count")
    added_ns = {
        (what, name): report.interval(left_out.added(sessions, what, name))
        for what in left_out.STATEMENTS
        for name in left_out.CONFIGURATIONS
        if left_out.added(sessions, what, name)
    }
    texts.append(report.bars(summaries, added_ns))
    texts.append("\n".join(notes))
    if void:
        texts.append(f"VOID: {len(void)} of {len(runs)} runs, see bench.json")
    text = "\n\n".join(t for t in texts if t) + "\n"
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "bench.txt").write_text(text)
    result = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {
            "cpus": os.cpu_count(), "kernel": platform.release(),
            "model": next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                           if line.startswith("model name")), None),
        },
        "server": pg_config("--version"),
        "rounds": args.rounds, "more": args.more, "seconds": args.seconds, "scale": SCALE, "notes": notes,
        "summary": {f"{w} / {c}": s for (w, c), s in summaries.items()},
        "session_added_ns": {f"{what}, {name}": found for (what, name), found in added_ns.items()},
        "runs": runs, "sessions": sessions,
    }
    (args.out / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.out / "bench.md").write_text(markdown.tables(result))
    chart.write({f"{w} / {c}": s for (w, c), s in summaries.items()}, args.out)
    print("\n" + text)
    print(f"{args.out}: bench.json, bench.txt, bench.md, cpu.svg, tps.svg, bytes.svg")
    # That others lose events is a finding, not a failure.
    return 1 if failed or any(r["configuration"].startswith("audit_ext") for r in void) else 0


def main():
    args = arguments()
    args.dir, args.out = Path(args.dir), Path(args.out)
    args.configurations, notes = available(args.configurations)
    args.running = []
    clear(args.dir)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return run(args, notes)
    finally:
        for server in args.running:
            server.stop()
        for left in args.dir.glob("*"):
            remove(left)


if __name__ == "__main__":
    sys.exit(main())
