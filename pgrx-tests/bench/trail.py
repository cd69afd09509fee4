"""A trail of ten million events, evenly over ten days, and what it takes to ask and to verify it.

Real sessions run real statements on a real server whose wall clock the benchmark moves on:
capture, ring, worker, partitions and their closing are those of production. Each user comes once an
hour, with some 800 events; every six minutes of it are a batch. Seeded: the same statements each time.

    trail.py --dir DIR --out FILE [--events N] [--export] [--drain N]       see scripts/bench-trail.sh
"""

import argparse
import json
import mmap
import os
import random
import re
import statistics
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

from session import Session
from server import as_server, children, make_template, pg_config, quiet, remove, stop

PORT = 54872
DAYS = 10
USERS = 50
TABLES = 50
SECONDS = DAYS * 86_400
# Users whose turns are stored together: six minutes of the trail.
PER_BATCH = 5
# A user's turn: per table a call of a function, the function, and what it runs.
OVERHEAD = 2

SETTINGS = {
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": "1GB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "30min",
    "effective_cache_size": "8GB",
    "maintenance_work_mem": "64MB",
    "lc_messages": "C",
    "shared_preload_libraries": "audit_ext",
    "audit.level": "all",
}

PREPARE = """
CREATE DATABASE app;
CREATE EXTENSION audit_ext;
"""

# Each runs its statements from plans, as applications do; one in 25 has a text of its own.
LOAD = """
CREATE TABLE {t} (id int PRIMARY KEY, v int);
INSERT INTO {t} SELECT i, 0 FROM generate_series(1, 1000) AS i;
GRANT ALL ON {t} TO PUBLIC;
CREATE FUNCTION load_{t}(n int, seed int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE got int;
BEGIN
    FOR i IN 1 .. n LOOP
        IF (seed + i) % 25 = 0 THEN
            EXECUTE format('SELECT v FROM {t} WHERE id = %s AND %s > 0', i, seed + i);
        ELSIF i % 4 = 0 THEN
            UPDATE {t} SET v = v + 1 WHERE id = (seed + i) % 1000;
        ELSE
            SELECT v INTO got FROM {t} WHERE id = (seed * 7 + i) % 1000;
        END IF;
    END LOOP;
END $$;
"""


class Clock:
    """Seconds by which the server's clock is off (cluster/tests/clock.c)."""

    def __init__(self, folder):
        self.library, self.file = folder / "clock.so", folder / "clock"
        source = Path(__file__).parents[1] / "cluster/tests/clock.c"
        subprocess.run(
            ["cc", "-O2", "-shared", "-fPIC", "-o", self.library, source, "-ldl"], check=True
        )
        self.file.write_bytes(bytes(8))
        self.file.chmod(0o644)
        self.library.chmod(0o755)
        with open(self.file, "r+b") as file:
            self.page = mmap.mmap(file.fileno(), 8)

    def set(self, seconds):
        self.page[:8] = struct.pack("=q", int(seconds))

    def environment(self):
        return [f"LD_PRELOAD={self.library}", f"CLOCK_AHEAD={self.file}"]


class Trailed:
    def __init__(self, folder, port=PORT):
        self.folder, self.data, self.port = folder, folder / "data", port
        self.bin = Path(pg_config("--bindir"))

    def make(self):
        make_template(self.data)
        with open(self.data / "postgresql.conf", "a") as conf:
            own = {"port": self.port, "unix_socket_directories": self.folder}
            for name, value in (SETTINGS | own).items():
                conf.write(f"{name} = '{value}'\n")

    def start(self, environment=(), options=""):
        log = self.folder / "server.log"
        as_server(
            ["env", *environment, self.bin / "pg_ctl", "-D", self.data, "-l", log, "-w", "-t", "120",
             "-o", options, "start"],
            check=True, stdout=subprocess.DEVNULL,
        )
        self.pid = int((self.data / "postmaster.pid").read_text().split()[0])

    def stop(self, how="fast"):
        stop(self.bin, self.data, how)

    def session(self, user="postgres", database="postgres"):
        return Session(self.bin, self.folder, self.port, user, database)

    def process(self, kind):
        """The pid of one of audit_ext's processes, if it runs."""
        for pid in children(self.pid):
            try:
                if kind.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
            except FileNotFoundError:
                pass
        return None


def cpu(pid):
    """CPU seconds of a process; None where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except FileNotFoundError:
        return None


def private_kb(pid):
    """Memory of its own."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0
    found = re.search(r"RssAnon:\s+(\d+)", text)
    return int(found.group(1)) if found else 0


class Watch:
    """The most private memory that a process has while the block runs."""

    def __init__(self, pid):
        self.pid, self.most, self.over = pid, 0, threading.Event()

    def look(self):
        while not self.over.wait(0.05):
            self.most = max(self.most, private_kb(self.pid))

    def __enter__(self):
        self.thread = threading.Thread(target=self.look)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


# --- making it ------------------------------------------------------------------------------------


class Turns:
    """Users at work: one after the other, an hour long, day after day."""

    def __init__(self, server, clock, events):
        self.server, self.clock, self.events = server, clock, events
        self.users = [server.session(f"user_{i}", "app") for i in range(USERS)]
        self.home = server.session()
        self.turns = DAYS * 24 * USERS
        self.random = random.Random(4711)
        self.began = time.time()
        self.done = 0
        self.worker_most = 0

    def turn(self):
        """One user's; the clock goes on to when it is over, all of it is stored."""
        now = self.began - SECONDS + self.done / self.turns * SECONDS
        self.clock.set(now - time.time())
        wanted = self.events * (self.done + 1) // self.turns
        missing = max(0, wanted - self.last_seq() - 2)
        user = self.users[self.done % USERS]
        each, more = divmod(missing, TABLES)
        calls = []
        for t in range(1, TABLES + 1):
            n = each + (t <= more) - OVERHEAD
            if n > 0:
                calls.append(f"PERFORM load_t_{t}({n}, {self.random.randrange(1_000_000)});")
        if calls:
            user.run("DO $$ BEGIN " + " ".join(calls) + " END $$")
        self.seq += missing + 2
        self.done += 1
        if self.done % PER_BATCH == 0:
            self.seq = int(self.home.run("SELECT audit.flush()")[0])

    seq = 0

    def last_seq(self):
        return self.seq

    def midnights(self):
        """How often the server's day has changed: each is the beginning of a partition."""
        begun = self.began - SECONDS
        now = begun + self.done / self.turns * SECONDS
        return int(now // 86_400) - int(begun // 86_400)

    def tell(self):
        worker = self.server.process("audit_ext worker")
        self.worker_most = max(self.worker_most, private_kb(worker))
        say(f"day {self.done // (24 * USERS)}: {self.seq} events")

    def end(self):
        for session in [*self.users, self.home]:
            session.close()


def closing(server, home):
    """Seconds and CPU seconds of the process that closes the period that has just ended."""
    deadline = time.monotonic() + 120
    while not (pid := server.process("audit_ext maintenance")):
        if time.monotonic() > deadline:
            return None
        time.sleep(0.05)
        home.run("SELECT audit.flush()")
    began, used, most = time.monotonic(), 0.0, 0
    while (now := cpu(pid)) is not None and server.process("audit_ext maintenance") == pid:
        used, most = now, max(most, private_kb(pid))
        time.sleep(0.02)
    return {
        "seconds": round(time.monotonic() - began, 2),
        "cpu_seconds": round(used, 2),
        "private_kb": most,
        "events": int(home.run(
            "SELECT sum(last_seq - first_seq + 1) FROM audit.batch b JOIN (SELECT * FROM audit.period"
            " WHERE frozen_at IS NOT NULL ORDER BY starts_at DESC LIMIT 1) p"
            " ON b.recorded_at >= p.starts_at AND b.recorded_at < p.ends_at"
        )[0] or 0),
    }


def make(server, clock, events):
    clock.set(-SECONDS)
    server.start(clock.environment())
    home = server.session()
    home.run(PREPARE)
    home.run("".join(f"CREATE ROLE user_{i} LOGIN;" for i in range(USERS)))
    app = server.session(database="app")
    app.run("SET audit.level = none")
    for t in range(1, TABLES + 1):
        app.run(LOAD.format(t=f"t_{t}"))
    app.close()
    turns = Turns(server, clock, events)
    turns.seq = int(home.run("SELECT audit.flush()")[0])
    began, worker = time.monotonic(), server.process("audit_ext worker")
    cpu_before, figures = cpu(worker), {}
    while turns.done < turns.turns:
        turns.turn()
        if "closing" not in figures and turns.midnights() == 2 and turns.done % PER_BATCH == 0:
            figures["closing"] = closing(server, home)
        if turns.done % (24 * USERS) == 0:
            turns.tell()
    figures["made in seconds"] = round(time.monotonic() - began)
    figures["events"] = turns.seq
    figures["worker cpu_seconds"] = round(cpu(worker) - cpu_before, 1)
    figures["worker private_kb"] = turns.worker_most
    turns.end()
    home.close()
    return figures


def settle(server):
    """With the real clock; all but the last period closed."""
    server.stop()
    server.start()
    home = server.session()
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        home.run("SELECT audit.flush()")
        # The last two: the one that is written to, and the one made ahead.
        if home.run("SELECT count(*) FROM audit.period WHERE frozen_at IS NULL AND ends_at <= now()") == ["0"]:
            break
        time.sleep(1)
    return home


# --- asking it ------------------------------------------------------------------------------------

QUESTIONS = {
    "who touched this object": "relations @> '{{public.t_{n}}}'",
    "what did this user do": "user_name = 'user_{n}'",
}


def questions(home):
    """Milliseconds of the auditor's two questions: one hour, on the hot and on a closed partition."""
    pid = int(home.run("SELECT pg_backend_pid()")[0])
    periods = [
        line.split("|")
        for line in home.run(
            "SELECT starts_at, ends_at, frozen_at IS NOT NULL FROM audit.period p WHERE EXISTS"
            " (SELECT FROM audit.batch b WHERE b.recorded_at >= p.starts_at AND b.recorded_at < p.ends_at"
            "  HAVING sum(b.last_seq - b.first_seq + 1) > 100) ORDER BY starts_at"
        )
    ]
    hot = [p for p in periods if p[2] == "f"][0]
    closed = [p for p in periods if p[2] == "t"]
    places = {"closed": closed[len(closed) // 2], "hot": hot}
    figures = {}
    for place, (starts, ends, _) in places.items():
        hour = home.run(
            "SELECT date_trunc('hour', min(started_at)) + interval '2 hours',"
            " date_trunc('hour', min(started_at)) + interval '3 hours' FROM audit.event"
            f" WHERE recorded_at >= '{starts}' AND recorded_at < '{ends}'"
        )[0].split("|")
        for name, condition in QUESTIONS.items():
            times, hits, used = [], 0, 0.0
            for n in (7, 23, 41):
                sql = (
                    f"SELECT * FROM audit.log WHERE {condition.format(n=n)}"
                    f" AND started_at >= '{hour[0]}' AND started_at < '{hour[1]}'"
                )
                home.run(sql) # warm
                before = cpu(pid)
                for _ in range(5):
                    rows, ms = home.timed(sql)
                    times.append(ms)
                    hits = max(hits, rows)
                used += cpu(pid) - before
            figures[f"{name}, {place}"] = {
                "hits": hits,
                "median_ms": round(statistics.median(times), 1),
                "max_ms": round(max(times), 1),
                "cpu_ms": round(used / len(times) * 1000, 1),
            }
            say(f"{name}, {place}: {figures[f'{name}, {place}']}")
            figures[f"{name}, {place}"]["plan"] = home.run(f"EXPLAIN (COSTS OFF) {sql}")
    return figures


def verify(server, events):
    session = server.session()
    pid = int(session.run("SELECT pg_backend_pid()")[0])
    session.run("SELECT 1 FROM audit.verify(1, 100)")
    before, began = cpu(pid), time.monotonic()
    with Watch(pid) as watch:
        problems = session.run("SELECT * FROM audit.verify()")
    used, seconds = cpu(pid) - before, time.monotonic() - began
    session.close()
    figures = {
        "problems": problems[:5],
        "seconds": round(seconds, 1),
        "cpu_seconds": round(used, 1),
        "events_per_cpu_second": round(events / used),
        "private_kb": watch.most,
    }
    say(f"verify: {figures}")
    return figures


def proofs(home, events):
    chosen = random.Random(11)
    size = int(home.run("SELECT audit.checkpoint()")[1])
    home.run("SELECT audit.inclusion_proof(1, 2)")
    inclusion, consistency = [], []
    pid = int(home.run("SELECT pg_backend_pid()")[0])
    before = cpu(pid)
    for _ in range(20):
        inclusion.append(home.timed(f"SELECT audit.inclusion_proof({chosen.randint(1, size)}, {size})")[1])
        old = chosen.randint(1, size - 1)
        consistency.append(home.timed(f"SELECT audit.consistency_proof({old}, {size})")[1])
    figures = {
        name: {"median_ms": round(statistics.median(times), 1), "max_ms": round(max(times), 1)}
        for name, times in (("inclusion", inclusion), ("consistency", consistency))
    }
    figures["cpu_ms of one"] = round((cpu(pid) - before) / 40 * 1000, 1)
    say(f"proofs: {figures}")
    return figures


def export(server, home, events):
    """audit.evidence() in pieces, through a pipe into audit-verify."""
    note = server.folder / "checkpoint"
    size = int(home.run("SELECT audit.flush()")[0])
    lines = home.run("SELECT audit.checkpoint()")
    note.write_text("\n".join(lines) + "\n")
    size = int(lines[1])
    key = home.run("SELECT details ->> 'key' FROM audit.log WHERE command = 'KEY' LIMIT 1")[0]
    step = 500_000
    pieces = "".join(
        f"COPY (SELECT * FROM audit.evidence({first}, {min(first + step - 1, size)})) TO STDOUT"
        f" WITH (FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02');\n"
        for first in range(1, size + 1, step)
    )
    psql = [server.bin / "psql", "-X", "-q", "-h", server.folder, "-p", server.port, "-U", "postgres", "postgres"]
    began = time.monotonic()
    source = subprocess.Popen(
        [str(p) for p in psql], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=quiet()
    )
    reader = subprocess.Popen(
        [str(server.bin / "audit-verify"), "events", "-", "--checkpoint", str(note), "--key", key],
        stdin=source.stdout, stdout=subprocess.PIPE,
    )
    source.stdin.write(pieces.encode())
    source.stdin.close()
    tail = b""
    with Watch(reader.pid) as watch:
        while chunk := reader.stdout.read(1 << 16):
            tail = (tail + chunk)[-200:]
    _, status, usage = os.wait4(reader.pid, 0)
    source.wait()
    used = usage.ru_utime + usage.ru_stime
    figures = {
        "seconds": round(time.monotonic() - began, 1),
        "audit-verify cpu_seconds": round(used, 1),
        "audit-verify events_per_cpu_second": round(size / used),
        "private_kb": watch.most,
        "exit": status,
        "end": tail.decode().strip().splitlines()[-1:],
    }
    say(f"export: {figures}")
    return figures


def sizes(home):
    figures = {}
    for line in home.run(
        "SELECT p.frozen_at IS NOT NULL, sum(pg_total_relation_size('audit.' || t || '_' || suffix)),"
        " sum(pg_total_relation_size('audit.' || t || '_' || suffix)) FILTER (WHERE t = 'event'),"
        " max(n.events) FROM audit.period p, unnest('{event,fate,batch,session,statement}'::text[]) t,"
        " LATERAL (SELECT sum(last_seq - first_seq + 1) AS events FROM audit.batch b"
        "   WHERE b.recorded_at >= p.starts_at AND b.recorded_at < p.ends_at) n"
        " WHERE n.events > 1000 GROUP BY p.suffix, 1 ORDER BY p.suffix"
    ):
        frozen, size, _, events = line.split("|")
        figures["closed" if frozen == "t" else "hot"] = round(int(size) / int(events), 1)
    say(f"bytes per event: {figures}")
    return figures


# --- the drain alone ------------------------------------------------------------------------------


def drain(folder, backlog, profile):
    """CPU of the worker for a backlog: it is stopped while a session fills the ring."""
    remove(folder)
    as_server(["mkdir", "-p", folder], check=True)
    server = Trailed(folder, PORT + 1)
    server.make()
    server.start(options="-c audit.ring_size=1GB -c audit.checkpoint_interval=1d -c autovacuum=off")
    home = server.session()
    home.run(PREPARE)
    app = server.session(database="app")
    app.run("SET audit.level = none")
    app.run(LOAD.format(t="t_1"))
    app.close()
    app = server.session(database="app")
    figures = []
    for round_ in range(3):
        before = int(home.run("SELECT audit.flush()")[0])
        time.sleep(1)
        worker = server.process("audit_ext worker")
        os.kill(worker, 19)
        app.run(f"DO $$ BEGIN PERFORM load_t_1({backlog}, {round_}); END $$")
        perf = profile and subprocess.Popen(
            ["perf", "record", "-q", "-e", "cpu-clock", "-g", "-p", str(worker), "-o", profile]
        )
        used, began = cpu(worker), time.monotonic()
        os.kill(worker, 18)
        after = int(home.run("SELECT audit.flush()")[0])
        used, seconds = cpu(worker) - used, time.monotonic() - began
        if perf:
            perf.send_signal(2)
            perf.wait()
        figures.append({
            "events": after - before,
            "cpu_seconds": round(used, 2),
            "seconds": round(seconds, 2),
            "events_per_cpu_second": round((after - before) / used),
            "private_kb": private_kb(worker),
        })
        say(f"drain: {figures[-1]}")
    home.close()
    app.close()
    server.stop("immediate")
    remove(folder)
    return figures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dir", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--export", action="store_true", help="also exports and verifies all of it")
    parser.add_argument("--drain", type=int, help="only the drain of a backlog of so many events")
    parser.add_argument("--profile", type=Path, help="of the last drain, by perf record, into this file")
    parser.add_argument("--keep", action="store_true", help="leaves the server's files")
    parser.add_argument("--again", action="store_true", help="asks the one that --keep left")
    options = parser.parse_args()
    folder = options.dir / "trail"
    if options.drain:
        figures = {"drain": drain(options.dir / "drain", options.drain, options.profile)}
    else:
        figures = whole(folder, options)
    options.out.mkdir(parents=True, exist_ok=True)
    name = "drain.json" if options.drain else "trail.json"
    (options.out / name).write_text(json.dumps(figures, indent=1) + "\n")
    say(f"written: {options.out / name}")


def whole(folder, options):
    figures = {}
    if options.again:
        server = Trailed(folder)
        server.stop()
        server.start()
        home = server.session()
    else:
        stop(Path(pg_config("--bindir")), folder / "data")
        remove(folder)
        as_server(["mkdir", "-p", folder], check=True)
        if os.getuid() == 0:
            folder.chmod(0o777)
        server = Trailed(folder)
        server.make()
        figures["making"] = make(server, Clock(folder), options.events)
        home = settle(server)
    try:
        events = int(home.run("SELECT audit.flush()")[0])
        assert home.run("SELECT dropped + gaps + panics FROM audit.worker_status()") == ["0"]
        figures["bytes per event"] = sizes(home)
        figures["questions"] = questions(home)
        figures["verify"] = verify(server, events)
        figures["proofs"] = proofs(home, events)
        if options.export:
            figures["export"] = export(server, home, events)
    finally:
        server.stop()
    if not options.keep:
        remove(folder)
    return figures


if __name__ == "__main__":
    sys.exit(main())
