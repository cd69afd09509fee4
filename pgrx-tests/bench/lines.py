#!/usr/bin/env python3
"""What a client's own SELECT touches of the library: instructions, lines of the processor's cache (64 bytes) and pages
(4 kB). None of it depends on what else the machine does, as times do.

A session is led through a statement instruction by instruction (ptrace), which tells the library's code; that says which
of its statics and of the linker's table (GOT) are looked at. Needs root. Called by scripts/bench-lines.sh.
"""

import argparse
import ctypes
import os
import re
import signal
import subprocess
from pathlib import Path

from hooks import Hooks, symbols
from left_out import OWN_STATEMENT
from pipeline import Pipeline
from server import Server, clear, make_template, remove
from workloads import CONFIGURATIONS, SCALE

LINE, PAGE = 64, 4096
LEVELS = ["none", "write", "all"]
PORT = 54490
# The sections that hold what statements run.
SECTIONS = ["audit_first", "audit_hot", "audit_session"]
START = "audit_ext::hooks::executor::start"

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.ptrace.restype = ctypes.c_long
LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
PEEKUSER, SINGLESTEP, ATTACH, DETACH = 3, 9, 16, 17
RIP = 16 * 8 # in struct user


def ptrace(request, pid, address=0, data=0):
    ctypes.set_errno(0)
    found = LIBC.ptrace(request, pid, address, data)
    if found == -1 and ctypes.get_errno():
        raise OSError(ctypes.get_errno(), "ptrace")
    return found


def led(session, stop):
    """Addresses of the instructions from one arrival at `stop` to the next, of a session that is in its stride."""
    ptrace(ATTACH, session.pid)
    os.waitpid(session.pid, 0)
    session.socket.sendall(session.once * 3)
    found, arrivals, received = [], 0, 0
    while arrivals < 3:
        ptrace(SINGLESTEP, session.pid, 0, received)
        _, status = os.waitpid(session.pid, 0)
        received = os.WSTOPSIG(status)
        if received != signal.SIGTRAP:
            continue # its own: a timer
        received = 0
        at = ptrace(PEEKUSER, session.pid, RIP)
        arrivals += at == stop
        if arrivals == 2:
            found.append(at)
    ptrace(DETACH, session.pid)
    session.until_ready(3)
    return found


def looked_at(library):
    """{address of an instruction: that of the static, or entry of the linker's table, in it}"""
    options = [option for section in SECTIONS for option in ("-j", section)]
    listed = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", *options, library], capture_output=True, text=True, check=True
    )
    found = re.finditer(r"^ *([0-9a-f]+):.*# ([0-9a-f]+) <", listed.stdout, re.MULTILINE)
    return {int(m[1], 16): int(m[2], 16) for m in found}


def measure(server):
    session = Pipeline(server, OWN_STATEMENT, 4711)
    session.run(3_000)
    places = Hooks(session.pid).of("audit_ext.so")
    base, end, file = places[0][0], places[-1][1], places[0][3]
    steps = led(session, base + symbols(file)[START])
    own = [at - base for at in steps if base <= at < end]
    of = looked_at(file)
    statics = {of[at] for at in own if at in of}
    session.close()

    def pieces(addresses, size):
        return len({address // size for address in addresses})

    return [
        f"{len(own):,}", f"{pieces(own, LINE)}", f"{pieces(statics, LINE)}", f"{pieces(own, PAGE)}",
        f"{pieces(statics, PAGE)}",
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dir", required=True, help="folder for the servers")
    args = parser.parse_args()
    folder = Path(args.dir)
    clear(folder)
    make_template(folder / "template")
    print("| level | own instructions | lines of its code | of its statics | pages of its code | of its statics |")
    print("|---|---|---|---|---|---|")
    for level in LEVELS:
        configuration = next(c for c in CONFIGURATIONS if c.name == f"audit_ext {level}")
        server = Server(folder / "server", folder / "template", configuration, PORT)
        server.start()
        try:
            server.fill(SCALE)
            server.warm()
            print("| " + " | ".join([f"`{level}`", *measure(server)]) + " |", flush=True)
        finally:
            server.stop()
    for left in folder.glob("*"):
        remove(left)


if __name__ == "__main__":
    main()
