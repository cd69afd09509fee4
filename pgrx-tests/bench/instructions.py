"""What a statement costs in instructions: the same number whatever else the machine is doing.

A real server runs under valgrind's callgrind; a prepared statement is executed some hundred times, then
three times as often. The difference, by statement, is what it costs; without audit_ext, and with it
at each level. What audit_ext itself executes is shown by part.

    instructions.py --dir DIR [--out FILE] [--check FILE]     see scripts/instructions.sh
"""

import argparse
import collections
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from server import as_server, make_template, pg_config, quiet, remove, stop
from workloads import SELECT, SIMPLE_UPDATE

RUNS = 300
PORT = 54871
SCRIPTS = {"select": (SELECT, 1), "simple-update": (SIMPLE_UPDATE, 5)}
LEVELS = ["none", "write", "all"]
# Rise of a figure that is too much.
TOLERANCE = 0.10
# Figures below it (instructions per statement) are judged as if they were so large: noise.
LEAST = 200

SETTINGS = {
    "listen_addresses": "",
    "autovacuum": "off",
    "jit": "off",
    "fsync": "off",
    "checkpoint_timeout": "1h",
    "bgwriter_delay": "10s",
    "shared_buffers": "64MB",
    "max_parallel_workers_per_gather": "0",
    "lc_messages": "C",
}

# Part of audit_ext by the source file that callgrind names; the first that fits.
PARTS = [
    ("texts and repeats", r"core/sql/|core/repeat|hooks/repeats"),
    ("push", r"core/ring/|crc"),
    ("encode", r"core/codec|hooks/emit"),
    ("names", r"pg/names|hashbrown"),
    ("session", r"pg/session|pg/connection"),
    ("fate", r"core/fate|hooks/xact"),
    ("slots", r"slot"),
    ("guard", r"guard"),
    ("statement", r"hooks/|pg/"),
]


def part_of(function):
    # Of what lies in a section of its own (hooks/executor.rs) valgrind knows no file, but its module.
    path = function.replace("::", "/")
    for part, pattern in PARTS:
        if re.search(pattern, path):
            return part
    # Generic code of the standard library, inlined into one of ours.
    return "library code inlined"


class Traced:
    """A server under callgrind."""

    def __init__(self, folder, template, level):
        self.folder = folder
        self.data = folder / "data"
        self.bin = Path(pg_config("--bindir"))
        as_server(["mkdir", "-p", folder], check=True)
        if os.getuid() == 0:
            folder.chmod(0o777) # our script and the server's files
        as_server(["cp", "-a", template, self.data], check=True)
        settings = SETTINGS | {"port": PORT, "unix_socket_directories": folder}
        if level:
            settings |= {"shared_preload_libraries": "audit_ext", "audit.level": level}
        with open(self.data / "postgresql.conf", "a") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        self.ctl("start")
        try:
            if level:
                self.psql("CREATE EXTENSION audit_ext")
            self.run("pgbench", "-i", "-q", "-s", "2")
            # What callgrind counts shall not depend on who sets the first hint bits.
            self.psql("VACUUM FREEZE ANALYZE")
            self.psql("CHECKPOINT")
        finally:
            self.ctl("stop")

    def ctl(self, what):
        done = as_server(
            [self.bin / "pg_ctl", "-D", self.data, "-l", self.folder / "log", "-w", what],
            stdout=subprocess.DEVNULL,
        )
        if done.returncode:
            sys.exit(f"pg_ctl {what}: {(self.folder / 'log').read_text()}")

    def run(self, program, *options, check=True):
        command = [self.bin / program, *options, "-h", self.folder, "-p", PORT, "-U", "postgres", "postgres"]
        return subprocess.run(
            [str(part) for part in command], check=check, env=quiet(), capture_output=True, text=True
        )

    def psql(self, sql, check=True):
        return self.run("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql, check=check)

    def counts(self, script):
        """Instructions by function of one backend: of RUNS and of 3 * RUNS executions."""
        file = self.folder / "script.sql"
        file.write_text(script)
        command = ["valgrind", "--tool=callgrind", "--trace-children=yes",
                   f"--callgrind-out-file={self.folder}/out.%p", self.bin / "postgres", "-D", self.data]
        if os.getuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        with open(self.folder / "valgrind.log", "w") as log:
            server = subprocess.Popen([str(part) for part in command], cwd="/", stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 120
            while self.psql("SELECT 1", check=False).returncode:
                if server.poll() is not None or time.monotonic() > deadline:
                    sys.exit((self.folder / "valgrind.log").read_text()[-4000:])
                time.sleep(0.3)
            time.sleep(1)
            return [self.backend(file, runs) for runs in (RUNS, 3 * RUNS)]
        finally:
            stop(self.bin, self.data, "fast")
            server.wait(60)
            for out in self.folder.glob("out.*"):
                out.unlink()

    def backend(self, file, runs):
        before = set(self.folder.glob("out.*"))
        self.run("pgbench", "-n", "-c", 1, "-M", "prepared", "-t", runs, "-f", file)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            time.sleep(0.5)
            for out in set(self.folder.glob("out.*")) - before:
                counted = functions(out) if out.stat().st_size else {}
                # Other processes end, too: the client's backend is the one that ran statements.
                run = sum(n for name, n in counted.items() if "standard_ExecutorRun" in name)
                if run > runs:
                    return counted
        sys.exit("callgrind left no file of the backend")


def functions(file):
    """{"source:function [object]": instructions of its own}"""
    out = subprocess.run(
        ["callgrind_annotate", "--auto=no", "--threshold=100", str(file)],
        capture_output=True, text=True, check=True,
    ).stdout
    found = collections.Counter()
    for line in out.splitlines():
        match = re.match(r"\s*([\d,]+) \(\s*[\d.]+%\)\s+(.*)$", line)
        if match and match[2] != "PROGRAM TOTALS":
            found[match[2]] += int(match[1].replace(",", ""))
    return found


def measure(folder, template, level, script, statements):
    traced = Traced(folder, template, level)
    few, many = traced.counts(script)
    remove(folder)
    per = {name: (many[name] - few[name]) / (2 * RUNS * statements) for name in many | few}
    parts = collections.Counter()
    for name, count in per.items():
        if re.search("audit_ext|audit_core", name):
            parts[part_of(name)] += count
    return sum(per.values()), dict(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--check", type=Path, help="committed figures: fail where one rose by more than 10 %%")
    parser.add_argument("--workloads", default=",".join(SCRIPTS))
    args = parser.parse_args()

    template = args.dir / "template"
    remove(template)
    remove(args.dir / "run")
    make_template(template)
    figures = {}
    for workload in args.workloads.split(","):
        script, statements = SCRIPTS[workload]
        plain, _ = measure(args.dir / "run", template, None, script, statements)
        print(f"{workload}: {plain:,.0f} instructions per statement on the plain server", flush=True)
        for level in LEVELS:
            total, parts = measure(args.dir / "run", template, level, script, statements)
            figures[f"{workload}, {level}"] = {
                "added": round(total - plain),
                "own": round(sum(parts.values())),
                "parts": {k: round(v) for k, v in sorted(parts.items(), key=lambda p: -p[1]) if v >= 1},
            }
            print(f"  {level:6} {total - plain:+7,.0f}   {figures[f'{workload}, {level}']['parts']}", flush=True)
    remove(template)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(figures, indent=1) + "\n")
    if args.check:
        sys.exit(judge(figures, json.loads(args.check.read_text())))


def judge(figures, committed):
    """Compares what audit_ext itself executes: unlike the difference between two servers it has no
    noise but that of memory's layout."""
    worse = 0
    for name, figure in figures.items():
        old, new = committed[name]["own"], figure["own"]
        rise = max(new, LEAST) / max(old, LEAST) - 1
        verdict = "ok"
        if rise > TOLERANCE:
            verdict, worse = "MORE THAN 10 % ABOVE THE COMMITTED FIGURE", worse + 1
        print(f"{name}: {new} instructions, committed {old}: {verdict}")
    print(f"test result: {'FAILED' if worse else 'ok'}. {len(figures) - worse} passed; {worse} failed; 0 ignored")
    return 1 if worse else 0


if __name__ == "__main__":
    main()
