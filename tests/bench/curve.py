#!/usr/bin/env python3
"""Draws what a farm costs its Redis, from the lines of the benchmark that begin with `csv,`.

    cargo bench -p hatchery-tests -- curve=10x0 curve=10x32 curve=100x32 … | tee output
    tests/bench/curve.py output > docs/internals/fleet.svg
    tests/bench/curve.py --table output
"""

import math
import sys

FIELDS = (
    "nodes spawns changes share scripts kib memory reserve_p50 reserve_p99 report_p50 report_p99"
).split()
WIDTH, HEIGHT, LEFT, TOP, PLOT_WIDTH, PLOT_HEIGHT = 760, 330, 60, 40, 290, 220
COLOURS = ["#1b6ca8", "#c8553d", "#3a7d44", "#7b4fa3", "#8a6d00"]


def rows(lines):
    """The row of each fleet; of one that was measured twice, the later ones."""
    found = {}
    for line in lines:
        if line.startswith("csv,"):
            row = dict(zip(FIELDS, map(float, line.strip().split(",")[1:])))
            found[(row["spawns"], row["nodes"])] = row
    return [found[key] for key in sorted(found)]


def table(all_rows):
    head = (
        "| nodes × spawns | ended and begun a second | a core of Redis | scripts a second | KiB/s to Redis | MiB in Redis | "
        "reserve p50, p99 | report p50, p99 |"
    )
    lines = [head, "| --- " * 8 + "|"]
    for r in all_rows:
        lines.append(
            f"| {r['nodes']:.0f} × {r['spawns']:.0f} | {r['changes']:.1f} | {r['share'] * 100:.1f} % | {r['scripts']:.0f} | "
            f"{r['kib']:.0f} | {r['memory']:.1f} | {r['reserve_p50'] / 1000:.2f}, {r['reserve_p99'] / 1000:.2f} ms | "
            f"{r['report_p50'] / 1000:.2f}, {r['report_p99'] / 1000:.2f} ms |"
        )
    return "\n".join(lines)


class Plot:
    """A plot with both axes logarithmic."""

    def __init__(self, at, title, unit, xs, ys):
        self.at, self.title, self.unit = at, title, unit
        self.x = (math.floor(math.log10(min(xs))), math.ceil(math.log10(max(xs)) - 1e-9))
        self.y = (math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)) - 1e-9))

    def place(self, x, y):
        across = (math.log10(x) - self.x[0]) / max(self.x[1] - self.x[0], 1)
        up = (math.log10(y) - self.y[0]) / max(self.y[1] - self.y[0], 1)
        return self.at + across * PLOT_WIDTH, TOP + PLOT_HEIGHT - up * PLOT_HEIGHT

    def frame(self):
        out = [f'<text x="{self.at}" y="{TOP - 14}" class="title">{self.title}</text>']
        for power in range(self.x[0], self.x[1] + 1):
            x, y = self.place(10**power, 10 ** self.y[0])
            out.append(f'<path d="M{x:.1f} {TOP}V{y:.1f}" class="grid"/>')
            out.append(f'<text x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle">{10**power:,}</text>'.replace(",", " "))
        for power in range(self.y[0], self.y[1] + 1):
            x, y = self.place(10 ** self.x[0], 10**power)
            text = f"{10.0**power:g} {self.unit}"
            out.append(f'<path d="M{x:.1f} {y:.1f}h{PLOT_WIDTH}" class="grid"/>')
            out.append(f'<text x="{x - 5:.1f}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
        out.append(f'<text x="{self.at + PLOT_WIDTH / 2}" y="{TOP + PLOT_HEIGHT + 34}" text-anchor="middle">nodes</text>')
        return out

    def line(self, points, colour):
        placed = [self.place(x, y) for x, y in points]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)
        out = [f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"/>']
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed]
        return out


def svg(all_rows):
    def drawn(row, field):
        # What is too little to be told from nothing.
        return max(row[field], 0.0001)

    nodes = [row["nodes"] for row in all_rows]
    plots = [
        (Plot(LEFT, "A core of Redis", "%", nodes, [drawn(r, "share") * 100 for r in all_rows]), "share", 100),
        (Plot(LEFT + 370, "Reserve, p99", "ms", nodes, [drawn(r, "reserve_p99") / 1000 for r in all_rows]), "reserve_p99", 0.001),
    ]
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">',
        "<style>text{font:12px sans-serif;fill:#333}.title{font-weight:bold}.grid{stroke:#ccc;fill:none}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
    ]
    for plot, _, _ in plots:
        out += plot.frame()
    for index, spawns in enumerate(sorted({row["spawns"] for row in all_rows})):
        colour, of = COLOURS[index % len(COLOURS)], [row for row in all_rows if row["spawns"] == spawns]
        for plot, field, scale in plots:
            out += plot.line([(row["nodes"], drawn(row, field) * scale) for row in of], colour)
        x = LEFT + index * 140
        out.append(f'<rect x="{x}" y="{HEIGHT - 24}" width="12" height="12" fill="{colour}"/>')
        out.append(f'<text x="{x + 17}" y="{HEIGHT - 14}">{spawns:.0f} spawns a node</text>')
    return "\n".join(out + ["</svg>"])


def main():
    arguments = sys.argv[1:]
    wants_table = "--table" in arguments
    lines = []
    for name in [argument for argument in arguments if argument != "--table"]:
        with open(name, encoding="utf-8") as file:
            lines += file.readlines()
    all_rows = rows(lines)
    if not all_rows:
        sys.exit("no line begins with csv, : run `cargo bench -p hatchery-tests -- curve=10x0 …` first")
    print(table(all_rows) if wants_table else svg(all_rows))


if __name__ == "__main__":
    main()
