"""Two benchmark files side by side."""

from __future__ import annotations

from benchmarks.compare import figures, lines

OLD = {
    "date": "2026-11-21",
    "forwards": [
        {"model": "14B", "size": "480p", "seconds": {"exact": 3.0, "fast": 2.0}, "rebuilt": 0, "refused": None},
        {"model": "5B", "size": "720p", "seconds": {"exact": 1.0}},
    ],
    "videos": [{"model": "14B", "memory": "resident", "seconds a step": [6.0, 6.2, 9.0], "equal": True}],
    "history": [{"seconds": 1}],
}
NEW = {
    "forwards": [
        {"model": "5B", "size": "720p", "seconds": {"exact": 0.5}},
        {"model": "14B", "size": "480p", "seconds": {"exact": 3.3}, "rebuilt": 2},
    ],
    "videos": [{"model": "14B", "memory": "resident", "seconds a step": [6.2, 6.2]}],
}


def test_entries_are_matched_by_what_they_measured_and_sorted_by_growth() -> None:
    assert [line.split(maxsplit=3) for line in lines(OLD, NEW)[:-1]] == [
        ["1.100", "3", "3.3", "forwards / 14B 480p / seconds / exact"],
        ["1.000", "6.2", "6.2", "videos / 14B resident / seconds a step"],
        ["0.500", "1", "0.5", "forwards / 5B 720p / seconds / exact"],
        ["–", "0", "2", "forwards / 14B 480p / rebuilt"],
    ]
    assert lines(OLD, NEW)[-1] == "1 figures in the old file only, 0 in the new one only."


def test_of_two_measurements_of_one_thing_the_last_counts() -> None:
    assert dict(figures([{"model": "5B", "seconds": 2.0}, {"model": "5B", "seconds": 1.0}])) == {("5B", "seconds"): 1.0}
