"""What is run, and on which configurations of the server."""

import random
from dataclasses import dataclass, field

# Of the tables of pgbench: 200,000 accounts, 26 MB.
SCALE = 2
ACCOUNTS = 100_000 * SCALE
LOOP = 1_000_000


@dataclass
class Workload:
    """A pgbench script of ours. The built-in ones look at the tables first, in statements of their
    own, and then recorded would not be executed."""

    name: str
    title: str
    script: str
    # The classes of the statements of one transaction, nested ones included: {class: how many}.
    statements: dict
    protocol: str = "prepared"
    clients: int = 4
    options: list = field(default_factory=list)
    # One transaction per run instead of as many as fit into the time.
    once: bool = False
    # Also measured after its partition is closed and indexed.
    closed: bool = False
    # Of each configuration in a round, and how long they are. A turn has new sessions, so it has to be long
    # where these are many: each costs some milliseconds.
    turns: int = 1
    seconds: int = 1
    # Has bars that need more rounds.
    narrow: bool = False
    # Of each client, instead of as many as fit into the time.
    transactions: int = 0


SELECT = f"\\set aid random(1, {ACCOUNTS})\nSELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n"

# pgbench -N
SIMPLE_UPDATE = f"""\\set aid random(1, {ACCOUNTS})
\\set bid random(1, {SCALE})
\\set tid random(1, {10 * SCALE})
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
END;
"""

INSERT = """\\set id random(1, 1000000000)
INSERT INTO single_row (id, note) VALUES (:id, 'a short note');
"""



def words(length):
    """Text that compresses like text: words of a vocabulary of 400, in no order."""
    chance = random.Random(1)
    letters = "eeeettaaooiinnsshhrrdlucmwfgypbvk"
    vocabulary = ["".join(chance.choices(letters, k=chance.randint(2, 9))) for _ in range(400)]
    text = ""
    while len(text) < length:
        text += chance.choice(vocabulary) + " "
    return text[:length]


# Its text never repeats: two numbers of 30 bits.
LONG_TEXT = (
    "\\set a random(1, 1000000000)\n\\set b random(1, 1000000000)\n"
    f"SELECT :a, :b, length('{words(4040)}');\n"
)


def do_loop(statements):
    return (
        "DO $$ DECLARE b int; BEGIN "
        f"FOR i IN 1 .. {statements} LOOP SELECT abalance INTO b FROM pgbench_accounts WHERE aid = i % {ACCOUNTS} + 1; END LOOP; "
        "END $$"
    )


WORKLOADS = [
    Workload(
        "select-prepared", "pgbench -S, prepared", SELECT, {"READ": 1}, closed=True, turns=4, narrow=True,
    ),
    Workload(
        "update-prepared", "pgbench -N, prepared", SIMPLE_UPDATE,
        {"MISC": 2, "WRITE": 2, "READ": 1}, closed=True,
    ),
    Workload("select-simple", "pgbench -S, simple", SELECT, {"READ": 1}, protocol="simple"),
    Workload("insert", "single-row INSERT, prepared", INSERT, {"WRITE": 1}),
    Workload(
        "long-text", "4 kB of text that never repeats, simple", LONG_TEXT, {"READ": 1},
        protocol="simple", closed=True,
    ),
    Workload(
        "do-loop", "a million statements in one DO loop", do_loop(LOOP) + ";\n", {"FUNCTION": 1, "READ": LOOP},
        protocol="simple", clients=1, once=True,
    ),
    Workload("select-64", "pgbench -S, prepared, 64 clients", SELECT, {"READ": 1}, clients=64, seconds=2),
    Workload(
        "update-64", "pgbench -N, prepared, 64 clients", SIMPLE_UPDATE,
        {"MISC": 2, "WRITE": 2, "READ": 1}, clients=64, seconds=2,
    ),
    Workload(
        "connect", "connection per query", SELECT, {"READ": 1}, protocol="simple",
        options=["--connect"],
    ),
]
QUICK_WORKLOADS = ["select-prepared", "update-prepared"]


@dataclass
class Configuration:
    name: str
    libraries: list = field(default_factory=list)
    settings: dict = field(default_factory=dict)
    # Which classes of statements are on record: all, or these.
    records: object = "all"
    # Where: nowhere, in the trail (audit_ext), or in files matching this below the data directory.
    kept: str = ""

    def recorded(self, workload):
        """Statements on record per transaction."""
        if not self.kept:
            return None
        return sum(
            count
            for kind, count in workload.statements.items()
            if self.records == "all" or kind in self.records
        )


PGAUDIT = {
    "pgaudit.log": "all",
    "logging_collector": "on",
    "log_directory": "log",
    "log_filename": "server.log",
    # The same facts: time, pid, user, database, client, application, session, transaction.
    "log_line_prefix": "%m [%p] %u@%d %r %a %c %x ",
}


def audit_ext(level, records, name=None, **settings):
    return Configuration(
        f"audit_ext {name or level}", ["audit_ext"],
        {"audit.level": level} | {f"audit.{key}": value for key, value in settings.items()},
        records, "trail",
    )


VANILLA = "vanilla"
AGAIN = "vanilla again"
CONFIGURATIONS = [
    Configuration(VANILLA, records=()),
    # What the noise of the machine makes of no difference at all; where asked for by name.
    Configuration(AGAIN, records=()),
    Configuration("pgaudit", ["pgaudit"], PGAUDIT, kept="log/server.log"),
    Configuration(
        "pgauditlogtofile",
        ["pgaudit", "pgauditlogtofile"],
        PGAUDIT | {"pgaudit.log_directory": "log", "pgaudit.log_filename": "audit.log"},
        kept="log/audit.log",
    ),
    audit_ext("all", "all"),
    audit_ext("all", "all", "commit", durability="commit"),
    audit_ext("write", ("WRITE",)),
    audit_ext("failed", ()),
    audit_ext("none", ()),
]
QUICK_CONFIGURATIONS = [VANILLA, "pgaudit", "audit_ext all", "audit_ext none"]
# Of the further rounds.
NARROW = [VANILLA, "audit_ext all"]
