"""A psql that stays connected, for benchmarks that hold sessions open."""

import re
import subprocess

from server import quiet

END = "-- end of answer --"


class Session:
    def __init__(self, bin, folder, port, user, database):
        command = [bin / "psql", "-X", "-q", "-A", "-t", "-h", folder, "-p", port, "-U", user, "-d", database]
        self.psql = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=quiet() | {"PGOPTIONS": "-c client_min_messages=warning"},
        )

    def run(self, sql):
        """The lines of the answer."""
        self.psql.stdin.write(f"{sql};\n\\echo {END}\n")
        self.psql.stdin.flush()
        lines = []
        for line in self.psql.stdout:
            if line.rstrip("\n") == END:
                break
            lines.append(line.rstrip("\n"))
        for line in lines:
            if line.startswith(("ERROR:", "FATAL:", "PANIC:")):
                raise RuntimeError(f"{sql[:200]}: {lines}")
        return lines

    def timed(self, sql):
        """The number of rows, and the milliseconds that the client waited."""
        lines = self.run(f"\\timing on\n{sql};\n\\timing off\n")
        times = [line for line in lines if line.startswith("Time: ")]
        return len(lines) - len(times), float(re.match(r"Time: ([0-9.]+) ms", times[0]).group(1))

    def close(self):
        self.psql.stdin.close()
        self.psql.wait()
