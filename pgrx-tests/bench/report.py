"""From rounds to figures: paired differences and ratios with their 95 % interval."""

import math
from statistics import mean, median, stdev

from workloads import VANILLA

# A run in which others took more of the machine than this share is left out of the comparison.
DISTURBED = 0.1

# Student's t, 97.5 %, by degrees of freedom.
T = [0, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
     2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086]


def interval(values):
    """(mean, low, high); the ends are None where one value tells nothing of the spread."""
    if not values:
        return None
    middle = mean(values)
    if len(values) < 2:
        return middle, None, None
    freedom = len(values) - 1
    half = (T[freedom] if freedom < len(T) else 1.96 + 2.4 / freedom) * stdev(values) / math.sqrt(len(values))
    return middle, middle - half, middle + half


def ratios(values):
    """[`interval`] of ratios: their logarithms are what is symmetric."""
    found = interval([math.log(v) for v in values])
    return found and tuple(v if v is None else math.exp(v) for v in found)


def summarize(runs, workload, configuration):
    """The figures of one configuration in one workload; `runs` are all of them."""
    mine = [r for r in runs if r["workload"] == workload and r["configuration"] == configuration]
    base = {
        r["round"]: r
        for r in runs
        if r["workload"] == workload and r["configuration"] == VANILLA and not r["void"]
    }
    good = [r for r in mine if not r["void"]]
    pairs = [(r, base[r["round"]]) for r in good if r["round"] in base and configuration != VANILLA]
    # Others at work on this machine say nothing about either side; what is left must be enough.
    calm = [(a, b) for a, b in pairs if max(a["others_cpu"], b["others_cpu"]) <= DISTURBED]
    if len(calm) >= 3:
        pairs = calm

    def middle(name):
        values = [r[name] for r in good if r.get(name) is not None]
        return median(values) if values else None

    return {
        "rounds": len(good),
        "pairs": len(pairs),
        "calm_pairs": len(calm),
        "void": [r["void"] for r in mine if r["void"]],
        "cpu_us": middle("cpu_us"),
        "cpu_added_us": interval([a["cpu_us"] - b["cpu_us"] for a, b in pairs]),
        "sessions_added_us": interval([a["sessions_us"] - b["sessions_us"] for a, b in pairs]),
        "worker_us": middle("worker_us"),
        "tps": middle("tps"),
        "tps_ratio": ratios([a["tps"] / b["tps"] for a, b in pairs]),
        "p99_us": middle("p99_us"),
        "p99_ratio": ratios([a["p99_us"] / b["p99_us"] for a, b in pairs if a["p99_us"] and b["p99_us"]]),
        "bytes_per_event": middle("bytes_per_event"),
        "wal_per_statement": middle("wal_per_statement"),
        "wal_added_per_event": median(
            [(a["wal"] / a["statements"] - b["wal"] / b["statements"]) * a["statements"] / a["events"]
             for a, b in pairs if a.get("events")]
        ) if any(a.get("events") for a, _ in pairs) else None,
        "statements": sum(r["statements"] for r in good),
        "expected": sum(r["expected"] or 0 for r in good) if good and good[0]["expected"] is not None else None,
        "recorded": sum(r["recorded"] or 0 for r in good) if good and good[0]["recorded"] is not None else None,
        "others_cpu": max((r["others_cpu"] for r in mine), default=None),
    }


def number(value, digits):
    return "–" if value is None else f"{value:,.{digits}f}"


def spread(found, digits):
    if not found:
        return "–"
    middle, low, high = found
    if low is None:
        return number(middle, digits)
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


COLUMNS = [
    ("configuration", lambda s: s["name"]),
    ("pairs (calm)", lambda s: f"{s['pairs']} ({s['calm_pairs']})" if s["pairs"] else "–"),
    ("CPU µs/stmt", lambda s: number(s["cpu_us"], 1)),
    ("added, 95 %", lambda s: spread(s["cpu_added_us"], 2)),
    ("in sessions", lambda s: number(s["sessions_added_us"] and s["sessions_added_us"][0], 2)),
    ("worker µs", lambda s: number(s["worker_us"], 2)),
    ("TPS", lambda s: number(s["tps"], 0 if (s["tps"] or 10) >= 10 else 2)),
    ("ratio, 95 %", lambda s: spread(s["tps_ratio"], 3)),
    ("p99 µs", lambda s: number(s["p99_us"], 0)),
    ("ratio", lambda s: number(s["p99_ratio"] and s["p99_ratio"][0], 2)),
    ("B/event", lambda s: number(s["bytes_per_event"], 0)),
    ("closed", lambda s: number(s.get("closed_bytes_per_event"), 0)),
    ("WAL/event", lambda s: number(s["wal_added_per_event"], 0)),
    ("recorded/expected", lambda s: "VOID" if s["void"] else
     "–" if s["recorded"] is None else f"{s['recorded']:,}/{s['expected']:,}"),
    ("others' CPU", lambda s: "–" if s["others_cpu"] is None else f"{s['others_cpu']:.0%}"),
]


def table(title, summaries):
    rows = [[name for name, _ in COLUMNS]]
    rows += [[cell(s) for _, cell in COLUMNS] for s in summaries]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = [f"{title}"]
    for i, row in enumerate(rows):
        cells = [row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:])]
        lines.append("| " + " | ".join(cells) + " |")
        if i == 0:
            lines.append("|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def exact(value):
    return None if value is None else (value, value, value)


# The bars of spec/performance.md: (workload, what, figure with its interval, at most, at least).
BARS = [
    ("select-prepared", "CPU added per event ≤ 3 µs", lambda s: s["cpu_added_us"], 3, None),
    ("select-prepared", "of it in the sessions' processes ≤ 0.8 µs", lambda s: s["sessions_added_us"], 0.8, None),
    ("select-prepared", "TPS ratio to vanilla ≥ 0.92", lambda s: s["tps_ratio"], None, 0.92),
    ("select-prepared", "p99 ≤ vanilla + 10 %", lambda s: s["p99_ratio"], 1.1, None),
    ("select-prepared", "bytes kept per event, hot ≤ 100", lambda s: exact(s["bytes_per_event"]), 100, None),
    ("select-prepared", "bytes kept per event, closed ≤ 130",
     lambda s: exact(s.get("closed_bytes_per_event")), 130, None),
    ("long-text", "bytes kept, text of 4 kB that never repeats ≤ text + 110",
     lambda s: exact(s["bytes_per_event"]), 4096 + 110, None),
    ("select-simple", "bytes kept, text of 57 bytes that seldom repeats ≤ text + 110",
     lambda s: exact(s["bytes_per_event"]), 57 + 110, None),
]


# As BARS, of audit_ext with durability = commit.
COMMIT_BARS = [
    ("update-64", "durability=commit, -N, 64 clients, TPS ratio ≥ 0.6", lambda s: s["tps_ratio"], None, 0.6),
]


def verdict(found, most, least):
    """Of the whole interval: where the bar lies within it, this run does not tell."""
    _, low, high = found
    if low is None:
        return "OPEN"
    holds = [most is None or v <= most for v in (low, high)]
    holds = [h and (least is None or v >= least) for h, v in zip(holds, (low, high))]
    return "met" if all(holds) else "NOT MET" if not any(holds) else "OPEN"


# Of a statement's session, nanoseconds, with and without the hooks: left out by the level, and on record.
LEFT_OUT_BAR = 50
RECORDED_BAR = 800


def bars(summaries, session_ns):
    """`session_ns`: {(what statement, configuration): interval}"""
    lines = []
    every = [("audit_ext all", *bar) for bar in BARS] + [("audit_ext commit", *bar) for bar in COMMIT_BARS]
    for configuration, workload, what, figure, most, least in every:
        summary = summaries.get((workload, configuration))
        found = figure(summary) if summary else None
        if found:
            shown = f"{found[0]:,.2f}" if found[1] == found[2] else spread(found, 2)
            lines.append(f"{verdict(found, most, least):8} {what}: {shown}")
    for (what, name), found in session_ns.items():
        recorded = name == "audit_ext all"
        bar = RECORDED_BAR if recorded else LEFT_OUT_BAR
        kind = "a statement on record, in its session" if recorded else "a statement that the level leaves out"
        lines.append(f"{verdict(found, bar, None):8} {kind} ≤ {bar} ns, {what}, {name}: {spread(found, 0)}")
    if any(line.startswith("OPEN") for line in lines):
        lines.append("OPEN: the bar lies within the 95 % interval; more rounds, or a calmer machine")
    return "\n".join(lines)
