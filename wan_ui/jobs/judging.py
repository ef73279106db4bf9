"""Marks on a comparison's clips and blind votes on pairs of them, by session, in the job database.

A mark says that a clip is a favourite or rejected. A vote says which of two clips is better, without its voter having
seen what either was made with: the server draws the pair and its sides, and names it by a random id.
"""

from __future__ import annotations

import random
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from wan_ui.errors import PairNotFound, TooManyVotes, VideoNotFound
from wan_ui.jobs.comparison_ranking import ComparisonRanking, Pair, next_pair, pairs_to_vote_on, rank_comparison
from wan_ui.jobs.store import timestamp
from wan_ui.ranking import Vote

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.job import Job
    from wan_ui.jobs.store import Store

Mark = Literal["favourite", "rejected"]
Side = Literal["a", "b"]
Choice = Literal["a", "b", "tie"]
MARKS: tuple[Mark, ...] = get_args(Mark)
MOST_VOTES = 500  # of one session on one comparison
PROGRAMS = ""
"""The session under which programs without a browser judge, all of them together."""


@dataclass(frozen=True)
class BlindPair:
    """A pair as its voter sees it: an id that tells nothing, and the choice made so far."""

    id: str
    choice: Choice | None


@dataclass(frozen=True)
class Ballot:
    """A session's votes on a comparison: the pair to vote on, None if all are done, and how many there are."""

    pair: BlindPair | None
    voted: int
    pairs: int


@dataclass(frozen=True)
class Judgement:
    """What one session, or all sessions together, say about a comparison.

    `marks` counts the marks of each clip by its generation. `voters` is the number of sessions that voted.
    """

    marks: Mapping[int, Mapping[Mark, int]]
    voters: int
    ranking: ComparisonRanking

    @property
    def is_empty(self) -> bool:
        """Whether nothing was marked and no pair was voted on."""
        return not self.marks and not self.voters


class Judging:
    """Marks and votes. `read_job` gives a job to a caller who may read it and raises RequestNotFound to any other.

    Whoever may read a comparison may judge it, for their own session; only the owner reads what all sessions say.
    Methods raise RequestNotFound, VideoNotFound for a job that is not a comparison, and HostError when the database
    cannot be read or written. `choice` draws the pairs and their sides.
    """

    def __init__(
        self,
        store: Store,
        read_job: Callable[[str, Access], Job],
        choice: random.Random | None = None,
    ) -> None:
        self._store = store
        self._read_job = read_job
        self._choice = choice or random.SystemRandom()

    def mark(self, job_id: str, index: int, mark: Mark | None, access: Access) -> None:
        """Mark the clip of generation `index`, or remove the mark. Raises VideoNotFound if it is not finished."""
        job = self._comparison(job_id, access)
        if index not in {clip.index for clip in job.clips}:
            raise VideoNotFound(f"This comparison has no finished video {index}.")
        values = {"job": job_id, "visitor": _session(access), "index": index, "mark": mark, "now": timestamp()}
        if mark is None:
            self._store.rows(
                "DELETE FROM marks WHERE job_id = :job AND visitor = :visitor AND clip_index = :index", values
            )
            return
        self._store.rows(
            """
            INSERT INTO marks (job_id, clip_index, visitor, mark, marked_at)
            SELECT id, :index, :visitor, :mark, :now FROM jobs WHERE id = :job
            ON CONFLICT (job_id, visitor, clip_index) DO UPDATE SET mark = excluded.mark, marked_at = excluded.marked_at
            """,
            values,
        )

    def next_pair(self, job_id: str, access: Access) -> Ballot:
        """A pair that the caller has not voted on yet; the same one again until they do.

        Raises TooManyVotes after MOST_VOTES votes.
        """
        job = self._comparison(job_id, access)
        pairs = pairs_to_vote_on(job)
        shown = self._pairs(job_id, access)
        waiting = next(
            (pair for pair, (_, choice) in shown.items() if choice is None and _ordered(pair) in pairs), None
        )
        if waiting is None:
            drawn = next_pair(pairs, [_ordered(pair) for pair in shown], self._choice)
            if drawn is not None:
                self._draw(job_id, drawn, access)
                shown = self._pairs(job_id, access)
                waiting = next((pair for pair in shown if _ordered(pair) == _ordered(drawn)), None)
        voted = sum(choice is not None for _, choice in shown.values())
        return Ballot(None if waiting is None else BlindPair(*shown[waiting]), voted, len(pairs))

    def vote(self, job_id: str, pair_id: str, choice: Choice, access: Access) -> Ballot:
        """Vote on a pair, or change the vote. Raises PairNotFound for a pair that was not shown to this session."""
        job = self._comparison(job_id, access)
        changed = self._store.rows(
            """
            UPDATE pair_votes SET choice = :choice, voted_at = :now
            WHERE id = :pair AND job_id = :job AND visitor = :visitor RETURNING id
            """,
            {"pair": pair_id, "job": job_id, "visitor": _session(access), "choice": choice, "now": timestamp()},
        )
        if not changed:
            raise _no_pair()
        shown = self._pairs(job_id, access)
        voted = sum(voted_for is not None for _, voted_for in shown.values())
        return Ballot(BlindPair(pair_id, choice), voted, len(pairs_to_vote_on(job)))

    def shown_generation(self, job_id: str, pair_id: str, side: Side, access: Access) -> int:
        """The generation whose clip is one side of a pair. Raises PairNotFound."""
        self._comparison(job_id, access)
        sides = self._store.rows(
            "SELECT side_a, side_b FROM pair_votes WHERE id = :pair AND job_id = :job AND visitor = :visitor",
            {"pair": pair_id, "job": job_id, "visitor": _session(access)},
        )
        if not sides:
            raise _no_pair()
        generation: int = sides[0][f"side_{side}"]
        return generation

    def judgement(self, job: Job, access: Access) -> Judgement:
        """What the caller's session says about a comparison that the caller has read."""
        return self._judgement(job, "visitor = :visitor", _session(access))

    def judgement_of_all(self, job: Job, access: Access) -> Judgement | None:
        """What all sessions say together; None for callers who are not the owner."""
        return self._judgement(job, "true", None) if access.identity.owner else None

    def _comparison(self, job_id: str, access: Access) -> Job:
        job = self._read_job(job_id, access)
        if not job.cells:
            raise VideoNotFound("This request is not a comparison: it has no cells to judge.")
        return job

    def _pairs(self, job_id: str, access: Access) -> dict[Pair, tuple[str, Choice | None]]:
        """The pairs that were shown to the caller, as (side a, side b), with their ids and the choices made."""
        rows = self._store.rows(
            "SELECT id, side_a, side_b, choice FROM pair_votes WHERE job_id = :job AND visitor = :visitor",
            {"job": job_id, "visitor": _session(access)},
        )
        return {(row["side_a"], row["side_b"]): (row["id"], row["choice"]) for row in rows}

    def _draw(self, job_id: str, pair: Pair, access: Access) -> None:
        """Store a new pair; a pair that another call of this session has just stored stays as it is."""
        counted: dict[str, Any] = {"job": job_id, "visitor": _session(access), "most": MOST_VOTES}
        stored = self._store.rows(
            """
            INSERT OR IGNORE INTO pair_votes (id, job_id, visitor, side_a, side_b)
            SELECT :id, jobs.id, :visitor, :side_a, :side_b FROM jobs WHERE jobs.id = :job
                AND (SELECT count(*) FROM pair_votes WHERE job_id = :job AND visitor = :visitor) < :most
            RETURNING id
            """,
            {**counted, "id": secrets.token_hex(16), "side_a": pair[0], "side_b": pair[1]},
        )
        if stored:
            return
        rows = self._store.rows(
            "SELECT count(*) AS votes FROM pair_votes WHERE job_id = :job AND visitor = :visitor", counted
        )
        if rows[0]["votes"] >= MOST_VOTES:
            raise TooManyVotes(
                f"You have voted on {MOST_VOTES} pairs of this comparison, which is the limit. You can still change "
                "those votes.",
                limit=MOST_VOTES,
            )

    def _judgement(self, job: Job, where: str, visitor: str | None) -> Judgement:
        values = {"job": job.id, "visitor": visitor}
        marks: dict[int, Counter[Mark]] = {}
        for row in self._store.rows(
            f"SELECT clip_index, mark, count(*) AS times FROM marks WHERE job_id = :job AND {where} GROUP BY 1, 2",
            values,
        ):
            marks.setdefault(row["clip_index"], Counter())[row["mark"]] = row["times"]
        rows = self._store.rows(
            f"""
            SELECT visitor, side_a, side_b, choice FROM pair_votes
            WHERE job_id = :job AND choice IS NOT NULL AND {where}
            """,
            values,
        )
        votes = [
            Vote(row["side_b"], row["side_a"])
            if row["choice"] == "b"
            else Vote(row["side_a"], row["side_b"], tie=row["choice"] == "tie")
            for row in rows
        ]
        return Judgement(marks, len({row["visitor"] for row in rows}), rank_comparison(job, votes))


def _session(access: Access) -> str:
    return PROGRAMS if access.identity.visitor is None else access.identity.visitor


def _ordered(pair: Pair) -> Pair:
    return (min(pair), max(pair))


def _no_pair() -> PairNotFound:
    return PairNotFound("There is no such pair among those that were shown to you. Get one with POST …/pairs.")
