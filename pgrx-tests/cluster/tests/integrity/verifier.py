"""A second verifier, written from docs/integrity.md alone; Python's standard library only.

verifier.py CHECKPOINT KEY < rows        rows: one JSON object per line, {"table": ..., columns}

It checks the checkpoint's signature, makes each leaf anew, and compares the root. Prints "size root".
"""
import base64
import hashlib
import json
import sys
from datetime import datetime, timezone

sha256 = lambda data: hashlib.sha256(data).digest()

# --- Ed25519 verification, RFC 8032, 5.1.7 -------------------------------------------------------
P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT = pow(2, (P - 1) // 4, P)


def recover_x(y, sign):
    if y >= P:
        raise ValueError("y")
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * ROOT % P
    if (x * x - x2) % P:
        raise ValueError("not on the curve")
    return P - x if x & 1 != sign else x


def point(data):
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    x = recover_x(y, sign)
    return (x, y, 1, x * y % P)


def add(p, q):
    a = (p[1] - p[0]) * (q[1] - q[0]) % P
    b = (p[1] + p[0]) * (q[1] + q[0]) % P
    c = 2 * p[3] * q[3] * D % P
    d = 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def multiply(n, p):
    q = (0, 1, 1, 0)
    while n:
        if n & 1:
            q = add(q, p)
        p, n = add(p, p), n >> 1
    return q


def equal(p, q):
    return (p[0] * q[2] - q[0] * p[2]) % P == 0 and (p[1] * q[2] - q[1] * p[2]) % P == 0


BASE_Y = 4 * pow(5, P - 2, P) % P
BASE = (recover_x(BASE_Y, 0), BASE_Y, 1, recover_x(BASE_Y, 0) * BASE_Y % P)


def signature_holds(key, message, signature):
    r, s = signature[:32], int.from_bytes(signature[32:], "little")
    if s >= L:
        return False
    h = int.from_bytes(hashlib.sha512(r + key + message).digest(), "little") % L
    return equal(multiply(s, BASE), add(point(r), multiply(h, point(key))))


# --- c2sp.org/signed-note, c2sp.org/tlog-checkpoint -----------------------------------------------
def read_checkpoint(note, key):
    name, key_id, key = key.split("+", 2)
    key = base64.b64decode(key, validate=True)
    assert key[0] == 1, "an Ed25519 key"
    assert sha256(name.encode() + b"\n" + key)[:4].hex() == key_id, "id of the key"
    text, signatures = note[: note.rindex("\n\n") + 1], note[note.rindex("\n\n") + 2 :]
    good = False
    for line in signatures.splitlines():
        dash, signer, signature = line.split(" ")
        signature = base64.b64decode(signature, validate=True)
        if dash == "\u2014" and signer == name and signature[:4].hex() == key_id:
            assert signature_holds(key[1:], text.encode(), signature[4:]), "signature"
            good = True
    assert good, "signed by the key"
    origin, size, root = text.split("\n")[:3]
    assert origin == name, "origin"
    return int(size), base64.b64decode(root, validate=True)


# --- Values ---------------------------------------------------------------------------------------
def number(value):
    return int(value).to_bytes(8, "big", signed=True)


def time(value):
    """A timestamptz as psql prints it in UTC with DateStyle ISO: '2026-11-23 01:43:14.35+00'."""
    at = datetime.fromisoformat(pad(value.replace("+00", "")) + "+00:00")
    since = at - datetime(2000, 1, 1, tzinfo=timezone.utc)
    return number((since.days * 86400 + since.seconds) * 1000000 + since.microseconds)


def pad(value):
    seconds, _, fraction = value.partition(".")
    return seconds + "." + fraction.ljust(6, "0")


def text(value):
    return value.encode()


def hexadecimal(value):
    assert value.startswith("\\x")
    return bytes.fromhex(value[2:])


def column(value, form=lambda v: v):
    if value is None:
        return b"\xff\xff\xff\xff"
    value = form(value)
    return len(value).to_bytes(4, "big") + value


def digest(field, salt, value):
    assert len(salt) == 16
    return sha256(b"\x02" + bytes([field]) + salt + value)


def kept_once(field, value, salt):
    if value is None:
        return None if salt is None else exactly(32, hexadecimal(salt))
    return digest(field, hexadecimal(salt), text(value))


def exactly(length, data):
    assert len(data) == length
    return data


# --- Rows -----------------------------------------------------------------------------------------
SESSION = [
    ("ref", number), ("session_id", text), ("started_at", time), ("pid", number), ("user_name", text),
    ("role_name", text), ("auth_identity", text), ("session_user_name", text), ("database_name", text),
    ("branch", text), ("client_addr", text), ("client_port", number), ("application_name", text),
    ("backend_type", text), ("context", None), ("unstorable", text),
]
STATEMENT = [
    ("ref", number), ("class", text), ("classes", text), ("command", text), ("object_type", text),
    ("object_name", text), ("relations", text), ("query_id", number), ("text", None), ("unstorable", text),
]
FATE = [
    ("recorded_at", time), ("session_started", time), ("pid", number), ("first_event", number),
    ("last_event", number), ("outcome", number), ("decided_by", number), ("gid", text),
]
BATCH = [
    ("recorded_at", time), ("ring_id", hexadecimal), ("position", number), ("first_seq", number),
    ("last_seq", number), ("dropped", number),
]


def columns(row, forms):
    return b"".join(column(row[name], form) for name, form in forms)


def dictionary_row(prefix, row, forms, field):
    out = prefix + b"\x01"
    for name, form in forms:
        if form is None:
            out += column(kept_once(field, row[name], row["salt"]))
        else:
            out += column(row[name], form)
    return sha256(out)


FIELDS = [(1, "text", text), (2, "error", text), (3, "statement_sha256", hexadecimal),
          (4, "parameters", text), (5, "details", text)]


def field_digests(row):
    salt = None if row["salt"] is None else hexadecimal(row["salt"])
    kept = {}
    if salt is not None and len(salt) != 16:
        at = 0
        while at < len(salt):
            field, at = salt[at], at + 1
            length = 32 if field & 0x80 else 16
            kept[field] = exactly(length, salt[at : at + length])
            at += length
    result = []
    for field, name, form in FIELDS:
        value = row[name]
        if value is None:
            result.append(kept.get(field | 0x80))
        elif len(salt) == 16:
            result.append(digest(field, sha256(b"\x07" + salt + bytes([field]))[:16], form(value)))
        else:
            result.append(digest(field, kept[field], form(value)))
    return result


def leaf(row, sessions, statements, fates, batches):
    digests = field_digests(row)
    own = sorted(columns(fate, FATE) for fate in fates.get(row["seq"], []))
    digests.append(sha256(b"\x05\x01" + b"".join(own)) if own else None)
    batch = batches.get(row["seq"])
    digests.append(sha256(b"\x06\x01" + columns(batch, BATCH)) if batch else None)
    present = sum(1 << bit for bit, d in enumerate(digests) if d is not None)
    record = (
        b"\x01" + number(row["seq"]) + time(row["recorded_at"]) + time(row["started_at"])
        + sessions[row["session"]] + statements[row["statement"]] + bytes([present])
        + b"".join(d for d in digests if d is not None) + hexadecimal(row["numbers"])
    )
    return sha256(b"\x00" + record)


def tree_root(leaves):
    """MTH of RFC 9162, 2.1.1."""
    if not leaves:
        return sha256(b"")
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\x01" + tree_root(leaves[:k]) + tree_root(leaves[k:]))


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        size, root = read_checkpoint(file.read(), sys.argv[2])
    tables = {name: [] for name in ("event", "session", "statement", "fate", "batch")}
    for line in sys.stdin.buffer:
        row = json.loads(line)
        tables[row["table"]].append(row)
    sessions = {r["ref"]: dictionary_row(b"\x03", r, SESSION, 6) for r in tables["session"]}
    statements = {r["ref"]: dictionary_row(b"\x04", r, STATEMENT, 1) for r in tables["statement"]}
    batches = {r["last_seq"]: r for r in tables["batch"]}
    fates = {}
    for fate in tables["fate"]:
        fates.setdefault(fate["decided_by"], []).append(fate)
    events = sorted((r for r in tables["event"] if int(r["seq"]) <= size), key=lambda r: int(r["seq"]))
    assert [int(r["seq"]) for r in events] == list(range(1, size + 1)), "seq without holes"
    found = tree_root([leaf(r, sessions, statements, fates, batches) for r in events])
    assert found == root, "the root is not the one of the checkpoint"
    print(size, base64.b64encode(root).decode())


main()
