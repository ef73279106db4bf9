"""Prints how much longer, or larger, each figure of a benchmark's JSON file is than in another one.

    python -m benchmarks.compare OLD.json NEW.json

The files are those that the other benchmarks write, such as docs/performance.json. A line is `ratio  old  new  figure`,
the largest ratio first; figures that only one file has are counted. Seconds of different machines do not compare.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

NAMES = ("model", "size", "split", "gpus", "cap GiB", "memory", "arithmetic", "way")
"""The fields that say what was measured: they name an entry of a list."""

LEFT_OUT = frozenset({"history", "date", *NAMES})


def figures(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    """Every number of a decoded file with its path; a list of numbers counts as its median.

    Of entries with the same names the last one counts, as in a file to which measurements were added.
    """
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield path, float(value)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            if name not in LEFT_OUT:
                yield from figures(item, (*path, name))
    elif isinstance(value, Sequence) and not isinstance(value, str) and value:
        if all(isinstance(item, int | float) and not isinstance(item, bool) for item in value):
            yield path, float(median(value))
            return
        for index, item in enumerate(value):
            yield from figures(item, (*path, entry_name(item) or str(index)))


def entry_name(entry: Any) -> str:
    """What an entry of a list measured, such as "14B 832×480×81"; empty where it does not say."""
    if not isinstance(entry, Mapping):
        return ""
    return " ".join(str(entry[name]) for name in NAMES if entry.get(name) is not None)


def lines(old: Any, new: Any) -> list[str]:
    """The comparison, the largest growth first. A figure that was zero has no ratio and is shown when it changed."""
    before, after = dict(figures(old)), dict(figures(new))
    both = [(path, before[path], after[path]) for path in before if path in after]
    grown = sorted((item for item in both if item[1]), key=lambda item: item[2] / item[1], reverse=True)
    text = [f"{now / was:7.3f}  {was:10.4g}  {now:10.4g}  {' / '.join(path)}" for path, was, now in grown]
    text += [f"      –  {was:10.4g}  {now:10.4g}  {' / '.join(path)}" for path, was, now in both if not was and now]
    single = f"{len(before) - len(both)} figures in the old file only, {len(after) - len(both)} in the new one only."
    return [*text, single]


def main() -> None:
    """Reads the two files and prints the lines."""
    parser = argparse.ArgumentParser(description="Compares the figures of two benchmark files.")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    arguments = parser.parse_args()
    print("\n".join(lines(*(json.loads(path.read_text()) for path in (arguments.old, arguments.new)))))


if __name__ == "__main__":
    main()
