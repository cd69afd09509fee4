"""Charts of a benchmark, as SVG from the figures of bench.json.

    chart.py bench.json FOLDER     writes FOLDER/cpu.svg, tps.svg and bytes.svg
"""

import json
import sys
from html import escape
from pathlib import Path

ROW, GAP, LEFT, WIDTH, RIGHT, TOP = 18, 10, 170, 420, 150, 46
COLORS = {"pgaudit": "#b08968", "pgauditlogtofile": "#8d6e63", "audit_ext none": "#9ecae1"}
OURS, PLAIN = "#3182bd", "#bdbdbd"


def color(configuration):
    return COLORS.get(configuration, OURS if configuration.startswith("audit_ext") else PLAIN)


def chart(title, unit, groups, reference=None):
    """`groups`: [(name, [(configuration, value, low or None, high or None)])]; horizontal bars with
    the 95 % interval as a line. `reference` is a value to mark: what the plain server has."""
    values = [v for _, bars in groups for bar in bars for v in bar[1:] if v is not None]
    most = max([*values, reference or 0]) or 1
    x = lambda value: LEFT + WIDTH * max(value, 0) / most
    body, y = [], TOP
    for name, bars in groups:
        body.append(f'<text x="8" y="{y + 12}" font-weight="bold">{escape(name)}</text>')
        y += ROW + 2
        for configuration, value, low, high in bars:
            middle = y + ROW / 2
            body.append(f'<text x="20" y="{y + 13}">{escape(configuration)}</text>')
            body.append(
                f'<rect x="{LEFT}" y="{y + 2}" width="{x(value) - LEFT:.1f}" height="{ROW - 4}" fill="{color(configuration)}"/>'
            )
            label = f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
            if low is not None:
                body.append(
                    f'<line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{middle}" y2="{middle}" stroke="#222"/>'
                )
                label += f"  [{low:,.2f}, {high:,.2f}]"
            body.append(f'<text x="{max(x(value), x(high or 0)) + 6:.1f}" y="{y + 13}">{label}</text>')
            y += ROW
        y += GAP
    if reference is not None:
        body.append(f'<line x1="{x(reference):.1f}" x2="{x(reference):.1f}" y1="{TOP}" y2="{y}" stroke="#888" stroke-dasharray="3 3"/>')
    width = LEFT + WIDTH + RIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y + 6}" '
        f'viewBox="0 0 {width} {y + 6}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n'
        f'<text x="8" y="18" font-size="15" font-weight="bold">{escape(title)}</text>\n'
        f'<text x="8" y="34" fill="#555">{escape(unit)}</text>\n' + "\n".join(body) + "\n</svg>\n"
    )


def charts(summary):
    """{file name: SVG} of the summaries of bench.json: {"workload / configuration": figures}."""
    workloads = list(dict.fromkeys(key.split(" / ")[0] for key in summary))

    def groups(figure):
        found = []
        for workload in workloads:
            bars = [
                (key.split(" / ")[1], *figure(s))
                for key, s in summary.items()
                if key.split(" / ")[0] == workload and figure(s)
            ]
            if bars:
                found.append((workload, bars))
        return found

    def one(value):
        return None if value is None else (value, None, None)

    return {
        "cpu.svg": chart(
            "CPU added per statement", "µs of the whole server above the plain one; 95 % interval; less is better",
            groups(lambda s: s.get("cpu_added_us")),
        ),
        "tps.svg": chart(
            "Transactions per second", "ratio to the plain server (dashed); 95 % interval; more is better",
            groups(lambda s: s.get("tps_ratio")), 1.0,
        ),
        "bytes.svg": chart(
            "Bytes kept per event", "heap, indexes and dictionaries, or log file; less is better",
            groups(lambda s: one(s.get("bytes_per_event"))),
        ),
    }


def write(summary, folder):
    for name, svg in charts(summary).items():
        (Path(folder) / name).write_text(svg)


if __name__ == "__main__":
    write(json.loads(Path(sys.argv[1]).read_text())["summary"], sys.argv[2])
