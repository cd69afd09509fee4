"""One server of a benchmark: made, started, measured from outside, stopped."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

PGAUDIT_ENTRY = re.compile(rb"SESSION,\d+,\d+,")
TICK = os.sysconf("SC_CLK_TCK")
# Everything else is as PostgreSQL comes.
SETTINGS = {
    "listen_addresses": "",
    "shared_buffers": "256MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
    # Between turns of a second it would fall on one configuration or the other.
    "autovacuum_naptime": "1h",
    "lc_messages": "C",
}


def pg_config(what):
    program = os.environ["PG_CONFIG"]
    return subprocess.run([program, what], check=True, capture_output=True, text=True).stdout.strip()


def as_server(command, **options):
    """Runs a command as the owner of the servers: root becomes the user postgres."""
    if os.getuid() == 0:
        command = ["runuser", "-u", "postgres", "--", *command]
    return subprocess.run(
        [str(part) for part in command], cwd="/", stdin=subprocess.DEVNULL, **options
    )


# A process that ends while it is looked at: before the open, or between open and read.
GONE = (FileNotFoundError, ProcessLookupError)


def stat(pid):
    """The fields of /proc/PID/stat after the name, from "state" on."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2 :].split()


def children(pid):
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except GONE:
        return []


def machine_busy():
    """CPU seconds that this machine has worked so far, for whomever."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / TICK


def wait_for_calm(patience):
    """Waits until nobody else works on this machine, at most so many seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        began, busy = time.monotonic(), machine_busy()
        time.sleep(0.25)
        if (machine_busy() - busy) / (time.monotonic() - began) / os.cpu_count() < 0.1:
            return


class Server:
    def __init__(self, folder, template, configuration, port, extra=None):
        self.folder = Path(folder)
        self.data = self.folder / "data"
        self.template = template
        self.port = port
        self.bin = Path(pg_config("--bindir"))
        self.configuration = configuration
        self.extra = extra or {}
        self.make()

    def make(self):
        """Its data directory, as initdb leaves it; what was there goes."""
        remove(self.folder)
        as_server(["mkdir", "-p", self.folder], check=True)
        as_server(["cp", "-a", "--reflink=auto", self.template, self.data], check=True)
        lines = SETTINGS | {"port": self.port, "unix_socket_directories": self.folder}
        lines |= self.configuration.settings | self.extra
        if self.configuration.libraries:
            lines["shared_preload_libraries"] = ",".join(self.configuration.libraries)
        with open(self.data / "postgresql.conf", "a") as conf:
            for name, value in lines.items():
                conf.write(f"{name} = '{value}'\n")

    def start(self):
        log = self.folder / "start.log"
        done = as_server(
            [self.bin / "pg_ctl", "-D", self.data, "-l", log, "-w", "-t", "60", "start"],
            stdout=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{self.configuration.name}: {log.read_text()}")
        self.pid = int((self.data / "postmaster.pid").read_text().split()[0])

    def stop(self, how="immediate"):
        stop(self.bin, self.data, how)

    def warm(self):
        """What a run reads is in the server's memory."""
        self.sql("SET max_parallel_workers_per_gather = 0; SELECT sum(abalance) FROM pgbench_accounts")
        self.sql("SET enable_seqscan = off; SELECT count(aid) FROM pgbench_accounts")

    def sql(self, sql):
        command = [self.bin / "psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"]
        command += ["-h", self.folder, "-p", self.port, "-U", "postgres", "-d", "postgres"]
        command = [str(part) for part in [*command, "-c", sql]]
        done = subprocess.run(command, capture_output=True, text=True, env=quiet())
        if done.returncode != 0:
            raise RuntimeError(f"{self.configuration.name}: {sql}: {done.stderr}")
        return done.stdout.strip()

    def fill(self, scale):
        """pgbench's tables, with audit_ext not yet recording."""
        command = [self.bin / "pgbench", "-i", "-q", "-s", scale, *self.connection()]
        subprocess.run(
            [str(part) for part in command], check=True, env=quiet(), capture_output=True
        )
        self.sql("CREATE TABLE single_row (id int, note text)")
        if self.configuration.kept == "trail":
            self.sql("CREATE EXTENSION audit_ext")
            level = self.configuration.settings["audit.level"]
            assert self.sql("SHOW audit.level") == level

    def connection(self):
        return ["-h", self.folder, "-p", self.port, "-U", "postgres", "postgres"]

    # --- what it has used -------------------------------------------------------------------------

    def cpu(self):
        """CPU seconds, user and system, of every process that it has or had."""
        seconds = 0
        for pid in [self.pid, *children(self.pid)]:
            try:
                # utime, stime, cutime, cstime: the postmaster's last two are its ended children.
                seconds += sum(map(int, stat(pid)[11:15]))
            except GONE:
                pass
        return seconds / TICK

    def ended_cpu(self):
        """CPU seconds of its processes that have ended, the sessions' above all."""
        return sum(map(int, stat(self.pid)[13:15])) / TICK

    def worker_cpu(self):
        """CPU seconds of audit_ext's worker."""
        for pid in children(self.pid):
            try:
                if b"audit_ext" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
            except GONE:
                pass
        return 0.0

    def quiet(self):
        """Waits until no client's process is left and the log is written: all CPU time is in the
        postmaster's account then."""
        deadline = time.monotonic() + 60
        size = -1
        while time.monotonic() < deadline:
            clients = 0
            for pid in children(self.pid):
                try:
                    # None: it ends, and its time is not yet in the account of those that have.
                    name = Path(f"/proc/{pid}/cmdline").read_bytes()
                    clients += not name or b"[local]" in name
                except GONE:
                    pass
            before, size = size, self.log_bytes()
            if clients == 0 and size == before:
                return
            time.sleep(0.02)
        raise RuntimeError(f"{self.configuration.name}: clients' processes do not end")

    # --- what it has kept -------------------------------------------------------------------------

    def log_file(self):
        if self.configuration.kept in ("", "trail"):
            return None
        return self.data / self.configuration.kept

    def log_bytes(self):
        file = self.log_file()
        return file.stat().st_size if file and file.exists() else 0

    def empty_log(self):
        """The writers append, so they go on at the new end."""
        for file in (self.data / "log").glob("*.log"):
            os.truncate(file, 0)

    def recorded_in_log(self):
        """Statements of pgbench on record."""
        count = 0
        with open(self.log_file(), "rb") as log:
            for line in log:
                # More than one in a line: pgauditlogtofile's writers tear each other's lines.
                if b"pgbench" in line:
                    count += len(PGAUDIT_ENTRY.findall(line))
        return count

    def flush(self):
        """Waits until all is stored; costs every configuration one connection."""
        self.sql("SELECT audit.flush()" if self.configuration.kept == "trail" else "SELECT 1")

    def wal(self):
        """Up to where there are files to read."""
        return self.sql("SELECT pg_current_wal_flush_lsn()")

    def wal_bytes(self, start, end):
        """WAL without the images of pages: how many there are depends on the last checkpoint."""
        if start == end:
            return 0
        command = [self.bin / "pg_waldump", "-p", self.data / "pg_wal", "-s", start, "-e", end, "-z"]
        done = as_server(command, capture_output=True, text=True)
        if done.returncode != 0:
            # All that is there is the end of a record that began before.
            if "could not find a valid record" in done.stderr:
                return 0
            raise RuntimeError(f"{self.configuration.name}: pg_waldump from {start} to {end}: {done.stderr}")
        # Total  records  record-size [%]  image-size [%]  both [%]
        total = next(line for line in done.stdout.splitlines() if line.startswith("Total"))
        return int(re.sub(r"\[[^]]*\]", "", total).split()[2])

    def last_seq(self):
        return int(self.sql("SELECT last_seq FROM audit.worker_status()"))

    def trail_bytes(self, like="%"):
        return int(
            self.sql(
                "SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM pg_class "
                "WHERE relnamespace = 'audit'::regnamespace AND relkind = 'r' "
                f"AND relname LIKE '{like}'"
            )
        )

    def recorded_in_trail(self, after):
        return int(
            self.sql(
                "SELECT count(*) FROM audit.log WHERE application_name = 'pgbench' "
                f"AND class NOT IN ('SESSION', 'AUDIT') AND seq > {after}"
            )
        )

    def lost(self):
        return int(self.sql("SELECT dropped + gaps + panics FROM audit.worker_status()"))


def quiet():
    """The environment for clients: nothing of the caller's own settings of libpq."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C"}


def stop(bin, data, how="immediate"):
    """Stops the server of a data directory, if one runs there."""
    try:
        pid = int((Path(data) / "postmaster.pid").read_text().split()[0])
        if os.readlink(f"/proc/{pid}/cwd") != str(data):
            return
    except (FileNotFoundError, ValueError, IndexError):
        return
    as_server(
        [bin / "pg_ctl", "-D", data, "-m", how, "-w", "-t", "60", "stop"],
        stdout=subprocess.DEVNULL,
    )
    try:
        if stat(pid)[0] not in "ZX":
            os.kill(pid, signal.SIGKILL)
    except GONE:
        pass


def clear(folder):
    """Stops what a run that was killed has left there, and removes all."""
    for data in folder.glob("*/data"):
        stop(Path(pg_config("--bindir")), data)
    for old in folder.glob("*"):
        remove(old)


def make_template(folder):
    as_server(
        [Path(pg_config("--bindir")) / "initdb", "-D", folder, "-U", "postgres", "-A", "trust",
         "-N", "-E", "UTF8", "--locale=C.UTF-8"],
        check=True, stdout=subprocess.DEVNULL,
    )


def remove(folder):
    shutil.rmtree(folder, ignore_errors=True)
