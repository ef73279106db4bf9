"""Draws the training curves of the demo from the logs of its parts into one SVG."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, GAP = 300, 170, 34
POINTS = 60  # of a curve, at most
COLOUR, INK, LINE = "#4f46e5", "#52525b", "#d4d4d8"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logs", nargs="+", help="TITLE=FILE; several files of one title follow each other")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    curves: dict[str, list[tuple[float, float]]] = {}
    for log in arguments.logs:
        title, _, path = log.partition("=")
        held = curves.setdefault(title, [])
        start = held[-1][0] if held else 0.0
        held += [(start + step, loss) for step, loss in points(json.loads(Path(path).read_text()))]
    arguments.out.write_text(picture(curves))


def points(log: dict[str, Any]) -> list[tuple[float, float]]:
    """(steps, loss) of a log; the stages of an autoencoder's follow each other."""
    found: list[tuple[float, float]] = []
    for stage in log.get("stages", [log]):
        start = found[-1][0] if found else 0.0
        found += [(start + point["step"], point["loss"]) for point in stage["curve"]]
    return found


def picture(curves: dict[str, list[tuple[float, float]]], columns: int = 3) -> str:
    """One small chart for each title, the loss on a logarithmic axis."""
    rows = math.ceil(len(curves) / columns)
    wide, high = columns * (WIDTH + GAP) + GAP, rows * (HEIGHT + 2 * GAP) + GAP
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" font-family="sans-serif" '
             f'font-size="12" fill="{INK}"><rect width="{wide}" height="{high}" fill="#fff"/>']  # fmt: skip
    for index, (title, whole) in enumerate(curves.items()):
        left = GAP + index % columns * (WIDTH + GAP)
        top = GAP + index // columns * (HEIGHT + 2 * GAP)
        every = max(1, math.ceil(len(whole) / POINTS))
        curve = [*whole[:-1:every], whole[-1]]
        last, low, high_ = curve[-1][0], min(loss for _, loss in curve), max(loss for _, loss in curve)
        scale = math.log(high_ / low) or 1.0
        line = " ".join(
            f"{left + WIDTH * step / last:.1f},{top + HEIGHT * (1 - math.log(loss / low) / scale):.1f}"
            for step, loss in curve
        )
        parts.append(f'<text x="{left}" y="{top - 8}" font-weight="bold">{title}</text>'
                     f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="{LINE}"/>'
                     f'<polyline points="{line}" fill="none" stroke="{COLOUR}" stroke-width="1.5"/>'
                     f'<text x="{left + 6}" y="{top + 16}">{high_:.4g}</text>'
                     f'<text x="{left + 6}" y="{top + HEIGHT - 8}">{low:.4g}</text>'
                     f'<text x="{left + WIDTH}" y="{top + HEIGHT + 16}" text-anchor="end">{last:,.0f} steps</text>'
                     )  # fmt: skip
    return "".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    main()
