"""Takes a library's hooks out of a session that runs, and puts them back, through /proc/PID/mem: what a statement costs
with them and without, in the same process, on the same memory. (Two servers that are the same in everything differ by
more than what is to be measured, for as long as they live.)

Only while the session waits for its client. Needs root, or what else may write to another's memory.
"""

import struct
import subprocess
from pathlib import Path

# What the library has registered with the server besides its hooks: lists of {next, function, argument}.
CALLBACKS = ["audit_ext::hooks::xact::transaction", "audit_ext::hooks::xact::subtransaction"]
WORD = struct.Struct("<Q")


def symbols(file, *options):
    """{name: address, relative to the file's}"""
    listed = subprocess.run(
        ["nm", "-C", "--defined-only", *options, file], capture_output=True, text=True, check=True
    )
    fields = (line.split(None, 2) for line in listed.stdout.splitlines())
    return {name.split("@")[0]: int(address, 16) for address, _, name in fields}


class Hooks:
    def __init__(self, pid, library="audit_ext.so"):
        self.memory = open(f"/proc/{pid}/mem", "r+b", buffering=0)
        self.places = []
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            addresses, access, _, _, _, *file = line.split(None, 5)
            self.places.append((*(int(end, 16) for end in addresses.split("-")), access, *(file or [""])))
        server, library = self.of("postgres"), self.of(library)
        # By address: what is there, and what would be without the library.
        self.words = {}
        for name, address in symbols(server[0][3], "-D").items():
            if name.endswith("_hook"):
                value = self.read(server[0][0] + address)
                if library[0][0] <= value < library[-1][1]:
                    self.words[server[0][0] + address] = value, 0
        names = symbols(library[0][3])
        for name in CALLBACKS:
            item = self.only(library[0][0] + names[name]) - WORD.size
            self.words[self.only(item)] = item, self.read(item)

    def of(self, name):
        return [place for place in self.places if Path(place[3]).name == name]

    def read(self, address):
        self.memory.seek(address)
        return WORD.unpack(self.memory.read(WORD.size))[0]

    def only(self, value):
        """The one place where this value is, in what the server has allocated or keeps in variables."""
        found = []
        for begin, end, access, file in self.places:
            if "w" not in access or not (file in ("", "[heap]") or Path(file).name == "postgres"):
                continue
            self.memory.seek(begin)
            content, at = self.memory.read(end - begin), -1
            while (at := content.find(WORD.pack(value), at + 1)) >= 0:
                if at % WORD.size == 0:
                    found.append(begin + at)
        if len(found) != 1:
            raise RuntimeError(f"{value:#x} is in {len(found)} places of the session's memory")
        return found[0]

    def put(self, there):
        for address, (value, without) in self.words.items():
            self.memory.seek(address)
            self.memory.write(WORD.pack(value if there else without))
