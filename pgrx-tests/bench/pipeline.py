"""A client that sends statements ahead of their answers, in the frontend/backend protocol itself: what a session's
process takes for a client's own statement, without waiting for a client each time. Nor does it wake one: the answers
are left to lie until all are there."""

import fcntl
import os
import socket
import struct
import termios
import time

# Their answers find room in the socket.
STATEMENTS_AHEAD = 100


def message(kind, *parts):
    body = b"".join(parts)
    return kind + struct.pack("!i", len(body) + 4) + body


class Pipeline:
    """A session that prepares `sql` with one int parameter and executes it, each time as a transaction."""

    def __init__(self, server, sql, parameter):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(f"{server.folder}/.s.PGSQL.{server.port}")
        self.unread = b""
        self.pid = None
        self.bytes_of_answers = None
        options = b"user\0postgres\0database\0postgres\0\0"
        self.socket.sendall(struct.pack("!ii", len(options) + 8, 196608) + options)
        self.until_ready(1)
        self.socket.sendall(message(b"P", b"s\0", sql.encode(), b"\0", struct.pack("!h", 0)) + message(b"S"))
        self.until_ready(1)
        value = str(parameter).encode()
        self.once = (
            message(b"B", b"\0s\0", struct.pack("!hhi", 0, 1, len(value)), value, struct.pack("!h", 0))
            + message(b"E", b"\0", struct.pack("!i", 0))
            + message(b"S")
        )

    def until_ready(self, times):
        """Reads until the server has been ready for a query so many times."""
        at = 0
        while times:
            end = None
            if len(self.unread) >= at + 5:
                end = at + 1 + struct.unpack_from("!i", self.unread, at + 1)[0]
            if end is None or len(self.unread) < end:
                more = self.socket.recv(1 << 20)
                if not more:
                    raise RuntimeError("the server has closed the connection")
                self.unread += more
                continue
            kind = self.unread[at : at + 1]
            if kind == b"E":
                raise RuntimeError(self.unread[at + 5 : end].replace(b"\0", b" ").decode())
            if kind == b"K":
                self.pid = struct.unpack_from("!i", self.unread, at + 5)[0]
            times -= kind == b"Z"
            at = end
        self.unread = self.unread[at:]

    def bytes_waiting(self):
        return struct.unpack("i", fcntl.ioctl(self.socket, termios.FIONREAD, bytes(4)))[0]

    def run(self, statements):
        for _ in range(statements // STATEMENTS_AHEAD):
            self.socket.sendall(self.once * STATEMENTS_AHEAD)
            if self.bytes_of_answers is None:
                time.sleep(0.5)
                self.bytes_of_answers = self.bytes_waiting()
            while self.bytes_waiting() < self.bytes_of_answers:
                if not os.path.exists(f"/proc/{self.pid}"):
                    raise RuntimeError("the session has ended")
                time.sleep(0.0004)
            self.until_ready(STATEMENTS_AHEAD)

    def close(self):
        self.socket.sendall(message(b"X"))
        self.socket.close()
