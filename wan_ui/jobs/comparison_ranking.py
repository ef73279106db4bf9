"""Which two clips of a comparison a voter is shown, and the ranking of cells, columns and rows from the votes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

from wan_ui.ranking import Ranking, Vote, rank, rank_groups

if TYPE_CHECKING:
    from collections.abc import Hashable

    from wan_ui.job import Job

Pair = tuple[int, int]
"""Two generations of a comparison by their indices, the smaller one first."""

Direction = Literal["columns", "rows"]
NUISANCE_FIELDS = ("prompt", "seed")
"""Axes that repeat an experiment rather than being its subject."""


@dataclass(frozen=True)
class Place:
    """One place of a ranking; `share` and `margin` as in `ranking.Rank`.

    `video` is the generation of a cell, None for a column or row; `column` and `row` are the position, None where they
    do not apply. `is_certain`: that this place is better than the next one is certain enough to be stated.
    """

    label: str
    video: int | None
    column: int | None
    row: int | None
    wins: float
    votes: int
    share: float
    margin: float
    is_certain: bool

    @property
    def text(self) -> str:
        """The place in words: `step 1500 wins 71 % ± 9`."""
        return f"{self.label} wins {100 * self.share:.0f} % ± {100 * self.margin:.0f}"


@dataclass(frozen=True)
class ComparisonRanking:
    """The places of a comparison's cells and, where votes compared them, of its columns and rows, best first."""

    votes: int
    cells: tuple[Place, ...]
    columns: tuple[Place, ...]
    rows: tuple[Place, ...]


def pairs_to_vote_on(job: Job) -> tuple[Pair, ...]:
    """Every pair of finished clips that differ along one axis only.

    Clips of different prompts or seeds are compared only where the other axis has no values of its own: the question
    is which setting is better, not which prompt is. A clip that several cells share counts once.
    """
    finished = {clip.index for clip in job.clips}
    by_line: dict[tuple[Direction, int], list[int]] = {}
    for cell in job.cells:
        if cell.generation in finished:
            by_line.setdefault(("columns", cell.row), []).append(cell.generation)
            by_line.setdefault(("rows", cell.column), []).append(cell.generation)
    compared = _compared_axes(job)
    pairs = {
        (min(first, second), max(first, second))
        for (direction, _), generations in by_line.items()
        if direction in compared
        for first, second in combinations(generations, 2)
        if first != second
    }
    return tuple(sorted(pairs))


def next_pair(pairs: Collection[Pair], shown: Collection[Pair], choice: random.Random) -> Pair | None:
    """The pair to show next, in random order: one of the pairs whose clips were shown least. None if none is left."""
    times = Counter(index for pair in shown for index in pair)
    left = [pair for pair in pairs if pair not in set(shown)]
    least = min((times[first] + times[second] for first, second in left), default=0)
    candidates = [(first, second) for first, second in left if times[first] + times[second] == least]
    if not candidates:
        return None
    first, second = choice.choice(candidates)
    return (first, second) if choice.random() < 0.5 else (second, first)


def rank_comparison(job: Job, votes: Sequence[Vote[int]]) -> ComparisonRanking:
    """The ranking of a comparison's finished clips from votes on their generations."""
    finished = {clip.index for clip in job.clips}
    cells = {cell.generation: cell for cell in reversed(job.cells) if cell.generation in finished}
    generations = sorted(cells)
    ranking = rank(generations, votes)
    places = tuple(
        Place(
            label=" · ".join(filter(None, (cells[place.item].column_label, cells[place.item].row_label))),
            video=place.item,
            column=cells[place.item].column,
            row=cells[place.item].row,
            wins=place.wins,
            votes=place.votes,
            share=place.share,
            margin=place.margin,
            is_certain=_is_certain(ranking, index),
        )
        for index, place in enumerate(ranking.ranks)
    )
    counted = sum(vote.winner in cells and vote.loser in cells for vote in votes)
    return ComparisonRanking(counted, places, _places_of(job, votes, "columns"), _places_of(job, votes, "rows"))


def _compared_axes(job: Job) -> tuple[Direction, ...]:
    """The axes along which clips are compared: those of settings, or both if there are only prompts and seeds."""
    directions: tuple[Direction, ...] = ("columns", "rows")
    sizes = {"columns": len({cell.column for cell in job.cells}), "rows": len({cell.row for cell in job.cells})}
    used = [direction for direction in directions if sizes[direction] > 1]
    compare = job.request["compare"]
    settings = [name for name in used if (compare.get(name) or {}).get("field") not in NUISANCE_FIELDS]
    return tuple(settings or used)


def _places_of(job: Job, votes: Iterable[Vote[int]], direction: Direction) -> tuple[Place, ...]:
    """The places of the columns or the rows; none if no vote compared two of them."""
    labels: dict[int, str] = {}
    lines: dict[int, set[int]] = {}
    for cell in job.cells:
        position, label = (cell.column, cell.column_label) if direction == "columns" else (cell.row, cell.row_label)
        labels[position] = label
        lines.setdefault(cell.generation, set()).add(position)
    # A clip that cells of several columns share says nothing about one of them.
    group_of: Mapping[int, Hashable] = {
        generation: next(iter(positions)) for generation, positions in lines.items() if len(positions) == 1
    }
    ranking = rank_groups(votes, group_of)
    if not any(place.votes for place in ranking.ranks):
        return ()
    places = []
    for index, place in enumerate(ranking.ranks):
        position = int(str(place.item))
        places.append(
            Place(
                label=labels[position],
                video=None,
                column=position if direction == "columns" else None,
                row=position if direction == "rows" else None,
                wins=place.wins,
                votes=place.votes,
                share=place.share,
                margin=place.margin,
                is_certain=_is_certain(ranking, index),
            )
        )
    return tuple(places)


def _is_certain(ranking: Ranking[int] | Ranking[Hashable], index: int) -> bool:
    return index + 1 < len(ranking.ranks) and ranking.is_settled(index, index + 1)
