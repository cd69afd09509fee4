"""What a statement costs its session, to some nanoseconds, where a server's CPU time as a whole is good for
microseconds: above all one that the level leaves out.

A session runs the same statements with the hooks of audit_ext, and without (hooks.py), in turns of some milliseconds;
the process's own CPU time is read before and after. What is compared are turns of the same moment, as a processor is
not always equally fast: with, without, without, with, or the other way round. Of a session, the median of the
differences; where its memory lies makes a difference, too, so what tells is the number of sessions.
"""

import statistics
import time
from pathlib import Path

from hooks import Hooks
from pipeline import Pipeline
from server import wait_for_calm
from session import Session
from workloads import do_loop

NESTED, OWN = "nested", "a client's own"
# Of a turn; and what runs before it, for the processor to know the way.
STATEMENTS = {NESTED: 2_000, OWN: 400}
WARM = {NESTED: 50, OWN: 200}
OWN_STATEMENT = "SELECT abalance FROM pgbench_accounts WHERE aid = $1"
SECONDS = {NESTED: 3, OWN: 8}
# The levels that leave a SELECT out (the second everything), and one that doesn't.
LEFT_OUT = ["audit_ext write", "audit_ext none"]
CONFIGURATIONS = [*LEFT_OUT, "audit_ext all"]


def cpu_ns(pid):
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


class Nested:
    def __init__(self, server):
        self.session = Session(server.bin, server.folder, server.port, "postgres", "postgres")
        self.pid = int(self.session.run("SELECT pg_backend_pid()")[0])
        self.close = self.session.close

    def run(self, statements):
        self.session.run(do_loop(statements))


def session_of(what, server):
    return Nested(server) if what == NESTED else Pipeline(server, OWN_STATEMENT, 4711)


def turn(session, hooks, there, what):
    """CPU ns of a statement."""
    hooks.put(there)
    session.run(WARM[what])
    before = cpu_ns(session.pid)
    session.run(STATEMENTS[what])
    return (cpu_ns(session.pid) - before) / STATEMENTS[what]


def differences(session, what, chance):
    """ns that the hooks add to a statement, time and again."""
    session.run(5 * STATEMENTS[what]) # its plan, its pages
    hooks = Hooks(session.pid)
    found, until = [], time.monotonic() + SECONDS[what]
    while time.monotonic() < until:
        order = chance.choice([(True, False, False, True), (False, True, True, False)])
        turns = [(there, turn(session, hooks, there, what)) for there in order]
        found.append(sum(ns if there else -ns for there, ns in turns) / 2)
    hooks.put(True)
    return found


def measure(server, number, chance, patience):
    """Of a server that runs, in this round: [{"what", "configuration", "round", "turns", "added_ns": of a statement}]"""
    found = []
    for what in STATEMENTS:
        session = session_of(what, server)
        wait_for_calm(patience)
        turns = differences(session, what, chance)
        session.close()
        found.append({
            "what": what, "configuration": server.configuration.name, "round": number,
            "turns": 4 * len(turns), "added_ns": statistics.median(turns),
        })
    return found


def added(runs, what, configuration):
    """By session."""
    return [r["added_ns"] for r in runs if (r["what"], r["configuration"]) == (what, configuration)]
