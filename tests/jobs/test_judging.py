"""Marks and blind votes on a comparison over a real store: whose they are, which pairs are drawn, what follows."""

from __future__ import annotations

import math
import random
import sqlite3
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.helpers import body
from wan_ui.access import Access
from wan_ui.errors import PairNotFound, RequestNotFound, TooManyVotes, VideoNotFound
from wan_ui.identity import Identity
from wan_ui.job import ClipRecord
from wan_ui.jobs.comparison_ranking import pairs_to_vote_on, rank_comparison
from wan_ui.jobs.judging import MOST_VOTES, Judging, Side
from wan_ui.jobs.schema import MIGRATIONS
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.ranking import Vote

ONE, OTHER = (Access(Identity(digit * 32, False), shared=False) for digit in "12")
GUEST = Access(OTHER.identity, shared=True)
PROGRAM = Access(Identity(None, False), shared=False)
OWNER = Access(Identity("3" * 32, True), shared=False)
STEPS, SEEDS = {"field": "sample_steps", "values": [1, 2, 3, 4]}, {"field": "seed", "values": [5, 6]}


def finished(service: JobService, store: Store, access: Access = ONE, **axes: Any) -> str:
    """A comparison whose clips are all finished, without a render."""
    job = service.submit({**body(1), "compare": axes or {"columns": STEPS, "rows": SEEDS}}, access)
    assert store.claim_next() == job.id
    for index, generation in enumerate(job.generations):
        file = f"clips/{job.id}{index}.mp4"
        assert store.add_clip(job.id, ClipRecord(index, 64, 64, 1, 16, generation.seed, file, {}))
    store.finish(job.id, "succeeded")
    return job.id


def vote_all(judging: Judging, job_id: str, access: Access, better: Any) -> int:
    """Votes on every pair: `better(a, b)` is whether the clip of generation a is preferred."""
    votes = 0
    while (pair := judging.next_pair(job_id, access).pair) is not None:
        sides: tuple[Side, Side] = ("a", "b")
        first, second = (judging.shown_generation(job_id, pair.id, side, access) for side in sides)
        judging.vote(job_id, pair.id, "a" if better(first, second) else "b", access)
        votes += 1
    return votes


def test_pairs_differ_along_the_axis_of_a_setting(service: JobService, store: Store) -> None:
    job = service.job(finished(service, store), ONE)
    row_of = {cell.generation: cell.row for cell in job.cells}
    pairs = pairs_to_vote_on(job)
    assert len(pairs) == 2 * 6  # two seeds, and the pairs of four numbers of steps
    assert all(row_of[first] == row_of[second] for first, second in pairs)
    seeds = service.job(finished(service, store, columns=SEEDS), ONE)
    assert pairs_to_vote_on(seeds) == ((0, 1),)


def test_pages_are_compared_and_ranked_like_columns(service: JobService, store: Store) -> None:
    pages = {"field": "guidance_scale", "values": [1, 2, 3]}
    columns = {"field": "sample_steps", "values": [1, 2]}
    job = service.job(finished(service, store, columns=columns, rows=SEEDS, pages=pages), ONE)
    place_of = {cell.generation: (cell.column, cell.row, cell.page) for cell in job.cells}
    pairs = pairs_to_vote_on(job)
    assert len(pairs) == 2 * (3 * 1 + 2 * 3)  # of each seed: the columns of three pages, the pages of two columns
    for first, second in pairs:
        assert sum(a != b for a, b in zip(place_of[first], place_of[second], strict=True)) == 1
        assert place_of[first][1] == place_of[second][1]
    by_page = [sorted(pair, key=lambda index: place_of[index][2]) for pair in pairs]
    votes = [Vote(better, worse) for worse, better in by_page if place_of[worse][2] != place_of[better][2]]
    ranking = rank_comparison(job, votes)
    assert [(place.label, place.page) for place in ranking.pages] == [
        ("guidance 3", 2), ("guidance 2", 1), ("guidance 1", 0),
    ]  # fmt: skip
    assert ranking.columns == ()
    assert ranking.cells[0].label.endswith("guidance 3") and ranking.cells[0].page == 2


def test_only_finished_clips_are_paired(service: JobService) -> None:
    job = service.submit({**body(1), "compare": {"columns": STEPS}}, ONE)
    ballot = service.judging.next_pair(job.id, ONE)
    assert (ballot.pair, ballot.pairs) == (None, 0)
    with pytest.raises(VideoNotFound):
        service.judging.mark(job.id, 0, "favourite", ONE)


def test_a_pair_stays_until_it_is_voted_on_and_the_vote_can_change(service: JobService, store: Store) -> None:
    judging, job_id = service.judging, finished(service, store)
    first = judging.next_pair(job_id, ONE)
    assert judging.next_pair(job_id, ONE) == first and first.pair is not None
    assert judging.vote(job_id, first.pair.id, "a", ONE).voted == 1
    winner = judging.shown_generation(job_id, first.pair.id, "a", ONE)
    assert judging.judgement(service.job(job_id, ONE), ONE).ranking.cells[0].video == winner
    assert judging.vote(job_id, first.pair.id, "b", ONE).voted == 1
    ranking = judging.judgement(service.job(job_id, ONE), ONE).ranking
    assert ranking.votes == 1 and ranking.cells[-1].video == winner
    second = judging.next_pair(job_id, ONE).pair
    assert second is not None and second.id != first.pair.id


def test_every_pair_is_shown_once_and_the_sides_are_random(service: JobService, store: Store) -> None:
    judging = Judging(store, service.job, random.Random(1))
    job_id = finished(service, store)
    sides = []

    def note(first: int, second: int) -> bool:
        sides.append((first, second))
        return True

    assert vote_all(judging, job_id, ONE, note) == 12
    assert len({frozenset(pair) for pair in sides}) == 12
    assert 2 <= sum(first < second for first, second in sides) <= 10
    ballot = judging.next_pair(job_id, ONE)
    assert (ballot.pair, ballot.voted, ballot.pairs) == (None, 12, 12)


def test_marks_and_votes_belong_to_a_session_and_the_owner_sees_all(service: JobService, store: Store) -> None:
    judging, job_id = service.judging, finished(service, store)
    job = service.job(job_id, ONE)
    for access, mark in ((ONE, "favourite"), (GUEST, "favourite"), (OWNER, "rejected")):
        judging.mark(job_id, 3, mark, access)  # type: ignore[arg-type]
    judging.mark(job_id, 2, "rejected", ONE)
    judging.mark(job_id, 2, None, ONE)
    pair = judging.next_pair(job_id, GUEST).pair
    assert pair is not None
    judging.vote(job_id, pair.id, "tie", GUEST)
    assert judging.judgement(job, ONE).marks == {3: {"favourite": 1}}
    assert judging.judgement(job, ONE).ranking.votes == 0
    assert judging.judgement_of_all(job, ONE) is None and judging.judgement_of_all(job, GUEST) is None
    everybody = judging.judgement_of_all(job, OWNER)
    assert everybody is not None and everybody.marks == {3: {"favourite": 2, "rejected": 1}}
    assert (everybody.voters, everybody.ranking.votes, judging.judgement(job, OWNER).voters) == (1, 1, 0)


# access, session of the comparison (True: a browser's), may judge: as in the table of wan_ui.access
PERMISSIONS = [
    (ONE, True, True),
    (OTHER, True, False),
    (GUEST, True, True),
    (PROGRAM, True, False),
    (OWNER, True, True),
    (ONE, False, True),
    (OTHER, False, True),
    (PROGRAM, False, True),
]


@pytest.mark.parametrize(("access", "of_browser", "allowed"), PERMISSIONS)
def test_whoever_may_read_a_comparison_may_judge_it(
    service: JobService, store: Store, access: Access, of_browser: bool, allowed: bool
) -> None:
    job_id = finished(service, store, ONE if of_browser else PROGRAM)
    judging = service.judging
    if allowed:
        judging.mark(job_id, 0, "favourite", access)
        assert judging.next_pair(job_id, access).pair is not None
        return
    with pytest.raises(RequestNotFound):
        judging.mark(job_id, 0, "favourite", access)
    with pytest.raises(RequestNotFound):
        judging.next_pair(job_id, access)


def test_a_pair_is_for_the_session_it_was_shown_to(service: JobService, store: Store) -> None:
    judging, job_id = service.judging, finished(service, store)
    pair = judging.next_pair(job_id, ONE).pair
    assert pair is not None
    for access, wrong in ((GUEST, pair.id), (OWNER, pair.id), (ONE, "0" * 32), (ONE, "")):
        with pytest.raises(PairNotFound):
            judging.vote(job_id, wrong, "a", access)
        with pytest.raises(PairNotFound):
            judging.shown_generation(job_id, wrong, "a", access)


def test_what_is_no_comparison_is_not_judged(service: JobService) -> None:
    job = service.submit(body(1), ONE)
    with pytest.raises(VideoNotFound):
        service.judging.next_pair(job.id, ONE)
    with pytest.raises(VideoNotFound):
        service.judging.mark(job.id, 0, "favourite", ONE)


def test_a_session_votes_at_most_so_often(service: JobService, store: Store) -> None:
    job_id = finished(service, store, columns={"field": "sample_steps", "values": list(range(1, 34))})
    assert len(pairs_to_vote_on(service.job(job_id, ONE))) == 528
    with sqlite3.connect(next(iter(store.rows("PRAGMA database_list", {})))["file"]) as database:
        database.executemany(
            "INSERT INTO pair_votes (id, job_id, visitor, side_a, side_b, choice) VALUES (?, ?, ?, ?, ?, 'a')",
            [
                (f"{number:032x}", job_id, ONE.identity.visitor, *pair)
                for number, pair in enumerate(pairs_to_vote_on(service.job(job_id, ONE))[:MOST_VOTES])
            ],
        )
    with pytest.raises(TooManyVotes) as refused:
        service.judging.next_pair(job_id, ONE)
    assert refused.value.details == {"limit": MOST_VOTES}
    assert service.judging.vote(job_id, f"{0:032x}", "b", ONE).voted == MOST_VOTES
    assert service.judging.next_pair(job_id, GUEST).pair is not None


def test_deleting_a_comparison_deletes_its_marks_and_votes(service: JobService, store: Store) -> None:
    job_id = finished(service, store)
    service.judging.mark(job_id, 0, "favourite", ONE)
    assert service.judging.next_pair(job_id, ONE).pair is not None
    service.delete_entry(job_id, ONE)
    for table in ("marks", "pair_votes"):
        assert store.rows(f"SELECT count(*) AS rows FROM {table}", {})[0]["rows"] == 0


def test_an_older_database_gets_the_tables(tmp_path: Path) -> None:
    before = next(index for index, version in enumerate(MIGRATIONS) if any("TABLE marks" in one for one in version))
    old = Store(tmp_path / "old.sqlite", migrations=MIGRATIONS[:before])
    assert old.rows("SELECT 1 FROM sqlite_master WHERE name = 'marks'", {}) == []
    old.close()
    with_tables = Store(tmp_path / "old.sqlite")
    assert with_tables.rows("SELECT count(*) AS rows FROM pair_votes", {})[0]["rows"] == 0
    with_tables.close()


def test_a_voter_with_known_preferences_gives_the_true_order(service: JobService, store: Store) -> None:
    """In at least 19 of 20 seeded runs no order of two columns that is called certain is wrong."""
    strengths = [0.0, 1.3, 2.6]
    columns = {**STEPS, "values": [1, 2, 3]}
    job_id = finished(service, store, columns=columns, rows={"field": "seed", "values": list(range(10))})
    job = service.job(job_id, ONE)
    column_of = {cell.generation: cell.column for cell in job.cells}
    right, certain = 0, 0
    votes: list[Vote[int]] = []
    for seed in range(20):
        voter = random.Random(seed)

        def prefers(first: int, second: int, voter: random.Random = voter) -> bool:
            difference = strengths[column_of[second]] - strengths[column_of[first]]
            return voter.random() < 1 / (1 + math.exp(difference))

        if seed == 0:  # one of them through the store, which draws pairs and sides
            assert vote_all(service.judging, job_id, ONE, prefers) == 10 * 3
            ranking = service.judging.judgement(job, ONE).ranking
        else:
            cast = [Vote(*pair) if prefers(*pair) else Vote(*pair[::-1]) for pair in pairs_to_vote_on(job)]
            ranking = rank_comparison(job, cast)
            votes += cast
        assert ranking.votes == 30
        wrong = 0
        for better, worse in pairwise(ranking.columns):
            assert better.column is not None and worse.column is not None
            certain += better.is_certain
            wrong += better.is_certain and strengths[better.column] < strengths[worse.column]
        right += wrong == 0
    assert right >= 19 and certain > 0
    together = rank_comparison(job, votes).columns
    assert [(place.column, place.is_certain) for place in together] == [(2, True), (1, True), (0, False)]
    assert together[0].text.startswith("steps 3 wins ")
