"""What a statement costs that the level leaves out: nanoseconds, where a server's CPU time as a whole is
good for microseconds. Two servers that are the same differ by as much as the bar, for as long as they live, so
what tells is how often they are started, not the number of turns.

Two sessions on each server, connected for the whole measurement: one runs nested statements, in a DO loop, the
other its client's own, sent ahead of the answers. They take turns of some milliseconds, the processes' own CPU
time is read before and after. What is compared are turns of the same moment, as a processor is not always
equally fast (longer turns are not of the same moment): of a start, the median of their differences.
"""

import statistics
from pathlib import Path

from pipeline import Pipeline
from server import wait_for_calm
from session import Session
from workloads import VANILLA, do_loop

NESTED, OWN = "nested", "a client's own"
# Of a turn.
STATEMENTS = {NESTED: 2_000, OWN: 400}
OWN_STATEMENT = "SELECT abalance FROM pgbench_accounts WHERE aid = $1"
TURNS = 150
# In each round of the benchmark the servers are started so many times.
STARTS = 3
# The levels that leave a SELECT out; the second leaves everything out.
LEVELS = ["audit_ext write", "audit_ext none"]
CONFIGURATIONS = [VANILLA, *LEVELS]


def cpu_ns(pid):
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


class Nested:
    def __init__(self, server):
        self.session = Session(server.bin, server.folder, server.port, "postgres", "postgres")
        self.pid = int(self.session.run("SELECT pg_backend_pid()")[0])
        self.close = self.session.close

    def run(self, statements):
        self.session.run(do_loop(statements))


def measure(servers, start, chance, patience):
    """Of servers that run: [{"what", "configuration", "start": which, "cpu_ns": of a statement, in each turn}]"""
    sessions = {}
    for server in servers:
        sessions[NESTED, server] = Nested(server)
        sessions[OWN, server] = Pipeline(server, OWN_STATEMENT, 4711)
    for (what, _), session in sessions.items():
        session.run(STATEMENTS[what]) # its plan, its pages
    taken = {key: [] for key in sessions}
    wait_for_calm(patience)
    for _ in range(TURNS):
        order = list(sessions)
        chance.shuffle(order)
        for key in order:
            session, statements = sessions[key], STATEMENTS[key[0]]
            before = cpu_ns(session.pid)
            session.run(statements)
            taken[key].append((cpu_ns(session.pid) - before) / statements)
    for session in sessions.values():
        session.close()
    return [
        {"what": what, "configuration": server.configuration.name, "start": start, "cpu_ns": turns}
        for (what, server), turns in taken.items()
    ]


def differences(runs, what, configuration):
    """By start: what a statement took more than on the plain server."""
    by_start = lambda name: {
        r["start"]: r["cpu_ns"] for r in runs if (r["what"], r["configuration"]) == (what, name)
    }
    plain = by_start(VANILLA)
    return [
        statistics.median(own - other for own, other in zip(turns, plain[number]))
        for number, turns in by_start(configuration).items()
        if number in plain
    ]
