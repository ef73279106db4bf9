"""Which two clips of a comparison a voter is shown, and the ranking of cells and of axis values from the votes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from wan_ui.ranking import Ranking, Vote, rank, rank_groups
from wan_ui.request import AXES, AxisName

if TYPE_CHECKING:
    from collections.abc import Hashable

    from wan_ui.compare import PlannedCell
    from wan_ui.job import Job

Pair = tuple[int, int]
"""Two generations of a comparison by their indices, the smaller one first."""

NUISANCE_FIELDS = ("prompt", "seed")
"""Axes that repeat an experiment rather than being its subject."""


@dataclass(frozen=True)
class Place:
    """One place of a ranking; `share` and `margin` as in `ranking.Rank`.

    `video` is the generation of a cell, None for a column, row or page; `column`, `row` and `page` are the position,
    None where they do not apply. `is_certain`: that this place is better than the next one is certain enough to be
    stated.
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
    page: int | None = None

    @property
    def text(self) -> str:
        """The place in words: `step 1500 wins 71 % ± 9`."""
        return f"{self.label} wins {100 * self.share:.0f} % ± {100 * self.margin:.0f}"


@dataclass(frozen=True)
class ComparisonRanking:
    """The places of a comparison's cells and, where votes compared them, of the values of its axes, best first."""

    votes: int
    cells: tuple[Place, ...]
    columns: tuple[Place, ...]
    rows: tuple[Place, ...]
    pages: tuple[Place, ...] = ()


def pairs_to_vote_on(job: Job) -> tuple[Pair, ...]:
    """Every pair of finished clips that differ along one axis only.

    Clips of different prompts or seeds are compared only where no other axis has values of its own: the question is
    which setting is better, not which prompt is. A clip that several cells share counts once.
    """
    finished = {clip.index for clip in job.clips}
    by_line: dict[tuple[AxisName, tuple[int, ...]], list[int]] = {}
    for cell in job.cells:
        if cell.generation in finished:
            for axis in _compared_axes(job):
                others = tuple(_position(cell, other) for other in AXES if other != axis)
                by_line.setdefault((axis, others), []).append(cell.generation)
    pairs = {
        (min(first, second), max(first, second))
        for generations in by_line.values()
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
    places = []
    for index, place in enumerate(ranking.ranks):
        cell = cells[place.item]
        where = {"video": place.item, "column": cell.column, "row": cell.row, "page": cell.page}
        places.append(_place(ranking, index, " · ".join(cell.labels), where))
    counted = sum(vote.winner in cells and vote.loser in cells for vote in votes)
    return ComparisonRanking(counted, tuple(places), *(_places_of(job, votes, axis) for axis in AXES))


def _position(cell: PlannedCell, axis: AxisName) -> int:
    return {"columns": cell.column, "rows": cell.row, "pages": cell.page}[axis]


def _compared_axes(job: Job) -> tuple[AxisName, ...]:
    """The axes along which clips are compared: those of settings, or all if there are only prompts and seeds."""
    used = [axis for axis in AXES if len({_position(cell, axis) for cell in job.cells}) > 1]
    compare = job.request["compare"]
    settings = [name for name in used if (compare.get(name) or {}).get("field") not in NUISANCE_FIELDS]
    return tuple(settings or used)


def _places_of(job: Job, votes: Iterable[Vote[int]], axis: AxisName) -> tuple[Place, ...]:
    """The places of the values of one axis; none if no vote compared two of them."""
    labels: dict[int, str] = {}
    lines: dict[int, set[int]] = {}
    for cell in job.cells:
        position = _position(cell, axis)
        labels[position] = {"columns": cell.column_label, "rows": cell.row_label, "pages": cell.page_label}[axis]
        lines.setdefault(cell.generation, set()).add(position)
    # A clip that cells of several columns share says nothing about one of them; so it is with rows and pages.
    group_of: Mapping[int, Hashable] = {
        generation: next(iter(positions)) for generation, positions in lines.items() if len(positions) == 1
    }
    ranking = rank_groups(votes, group_of)
    if not any(place.votes for place in ranking.ranks):
        return ()
    places = []
    for index, place in enumerate(ranking.ranks):
        position = int(str(place.item))
        places.append(_place(ranking, index, labels[position], {axis.removesuffix("s"): position}))
    return tuple(places)


def _place(ranking: Ranking[int] | Ranking[Hashable], index: int, label: str, where: Mapping[str, int]) -> Place:
    """A place of a ranking; `where` says which of `video`, `column`, `row` and `page` it is about."""
    place = ranking.ranks[index]
    return Place(
        label=label,
        video=where.get("video"),
        column=where.get("column"),
        row=where.get("row"),
        page=where.get("page"),
        wins=place.wins,
        votes=place.votes,
        share=place.share,
        margin=place.margin,
        is_certain=index + 1 < len(ranking.ranks) and ranking.is_settled(index, index + 1),
    )
