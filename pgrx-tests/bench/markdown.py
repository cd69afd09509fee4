"""Tables of docs/performance.md and of the README, from the figures of bench.json.

    markdown.py bench.json     writes them to the standard output
"""

import json
import sys
from pathlib import Path

from report import number, spread
from workloads import VANILLA, WORKLOADS

ALL, COMMIT = "audit_ext all", "audit_ext commit"
PGAUDIT, TO_FILE = "pgaudit", "pgauditlogtofile"
# The rows of the README.
FIRST = ["select-prepared", "update-prepared", "select-simple", "do-loop", "select-64", "long-text", "connect"]


def table(columns, rows):
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


class Figures:
    def __init__(self, summary):
        """`summary`: {"workload / configuration": figures}, as bench.json has it"""
        self.summary = summary
        self.workloads = [w for w in WORKLOADS if f"{w.name} / {VANILLA}" in summary]

    def of(self, workload, configuration, figure):
        return (self.summary.get(f"{workload.name} / {configuration}") or {}).get(figure)

    def plain(self, workload):
        return number(self.of(workload, VANILLA, "cpu_us"), 1)

    def added(self, workload, configuration, digits=2):
        return spread(self.of(workload, configuration, "cpu_added_us"), digits)

    def ratio(self, workload, configuration):
        return spread(self.of(workload, configuration, "tps_ratio"), 3)

    def percent(self, workload, configuration):
        found = self.of(workload, configuration, "tps_ratio")
        if not found:
            return "–"
        text = spread([v and 100 * v for v in found], 0) # one round has no interval
        return text.replace(" [", " % [") if "[" in text else f"{text} %"


def beside_the_plain_server(figures):
    columns = ["workload", "plain", "`all` adds", "of it worker", "in sessions", "TPS ratio", "p99 ratio"]
    for name in (PGAUDIT, TO_FILE):
        columns += [f"{name} adds", "TPS ratio"]
    return table(columns, [
        [
            w.title, figures.plain(w), figures.added(w, ALL), number(figures.of(w, ALL, "worker_us"), 2),
            spread(figures.of(w, ALL, "sessions_added_us"), 2), figures.ratio(w, ALL),
            spread(figures.of(w, ALL, "p99_ratio"), 2),
            *(cell for name in (PGAUDIT, TO_FILE) for cell in (figures.added(w, name), figures.ratio(w, name))),
        ]
        for w in figures.workloads
    ])


def other_configurations(figures):
    names = ["none", "failed", "write", "commit"]
    columns = ["workload", "`none` adds", *(f"`{name}`" for name in names[1:]), "TPS ratio of `commit`"]
    return table(columns, [
        [w.title, *(figures.added(w, f"audit_ext {name}") for name in names), figures.ratio(w, COMMIT)]
        for w in figures.workloads
    ])


def sizes(figures):
    columns = ["workload", "hot", "closed", PGAUDIT, TO_FILE, "WAL per event"]
    return table(columns, [
        [
            w.title,
            *(number(figures.of(w, configuration, figure), 0) for configuration, figure in [
                (ALL, "bytes_per_event"), (ALL, "closed_bytes_per_event"), (PGAUDIT, "bytes_per_event"),
                (TO_FILE, "bytes_per_event"), (ALL, "wal_added_per_event"),
            ]),
        ]
        for w in figures.workloads
    ])


def in_short(figures):
    columns = ["", "plain", "audit_ext `all` adds", "pgaudit adds", "throughput with audit_ext", "with pgaudit"]
    by_name = {w.name: w for w in figures.workloads}
    return table(columns, [
        [w.title, figures.plain(w), *(figures.added(w, name, 1) for name in (ALL, PGAUDIT)),
         *(figures.percent(w, name) for name in (ALL, PGAUDIT))]
        for w in (by_name[name] for name in FIRST if name in by_name)
    ])


def in_the_session(found):
    """`found`: {"what statement, configuration": interval of ns}"""
    return table(["a statement, and the level", "ns that the hooks add to it, in its session"], [
        [name, spread(added, 0)] for name, added in found.items()
    ])


def tables(result):
    figures = Figures(result["summary"])
    parts = [
        ("Beside the plain server, CPU in µs per statement", beside_the_plain_server(figures)),
        ("The other configurations, CPU added", other_configurations(figures)),
        ("Bytes", sizes(figures)),
        ("In the session", in_the_session(result["session_added_ns"])),
        ("In short", in_short(figures)),
    ]
    return "\n".join(f"{title}\n\n{text}\n" for title, text in parts)


if __name__ == "__main__":
    print(tables(json.loads(Path(sys.argv[1]).read_text())))
