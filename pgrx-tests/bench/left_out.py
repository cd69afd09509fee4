"""What a statement costs that the level leaves out: nanoseconds, where a server's CPU time as a whole is
good for microseconds. Two servers that are the same differ by as much as the bar, for as long as they live, so
what tells is the number of rounds, not of turns.

One session on each server, connected for the whole measurement; they take turns of half a second in a DO
loop, the processes' own CPU time is read before and after. What is compared is what was run side by side.
"""

from pathlib import Path
from statistics import median

from server import wait_for_calm
from session import Session
from workloads import VANILLA, do_loop

STATEMENTS = 200_000
TURNS = 4
# The levels that leave a SELECT out; the second leaves everything out.
LEVELS = ["audit_ext write", "audit_ext none"]
CONFIGURATIONS = [VANILLA, *LEVELS]


def cpu_ns(pid):
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def measure(servers, round_number, chance, patience):
    """Of servers that run: [{"configuration", "round", "cpu_ns": of a statement, in each turn}]"""
    sessions = {}
    for server in servers:
        session = Session(server.bin, server.folder, server.port, "postgres", "postgres")
        sessions[session] = server
        session.pid = int(session.run("SELECT pg_backend_pid()")[0])
        session.run(do_loop(STATEMENTS)) # its plan, its pages
    taken = {session: [] for session in sessions}
    for _ in range(TURNS):
        wait_for_calm(patience)
        order = list(sessions)
        chance.shuffle(order)
        for session in order:
            before = cpu_ns(session.pid)
            session.run(do_loop(STATEMENTS))
            taken[session].append((cpu_ns(session.pid) - before) / STATEMENTS)
    for session in sessions:
        session.close()
    return [
        {"configuration": server.configuration.name, "round": round_number, "cpu_ns": taken[session]}
        for session, server in sessions.items()
    ]


def differences(runs, configuration):
    """By round: the median of what each turn took more than the plain server's in the same turn."""
    by_round = lambda name: {r["round"]: r["cpu_ns"] for r in runs if r["configuration"] == name}
    plain = by_round(VANILLA)
    return [
        median(a - b for a, b in zip(turns, plain[number]))
        for number, turns in by_round(configuration).items()
        if number in plain
    ]
