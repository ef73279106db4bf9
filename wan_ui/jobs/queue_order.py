"""Moves a waiting job to another position of the queue."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from wan_ui.errors import NotWaiting
from wan_ui.job import Status
from wan_ui.jobs.store import Store


@dataclass(frozen=True)
class WaitingJob:
    """A job that waits, and the browser that sent it."""

    job_id: str
    visitor: str | None


def moved(queue: Sequence[WaitingJob], job_id: str, position: int, own_only: bool) -> list[str]:
    """The queue's job ids after a job was moved to a position, from 1; beyond the end is the end.

    With `own_only` the jobs of other visitors keep their positions, and the job takes that of its visitor's positions
    which is nearest in the direction of the move without passing `position`.
    """
    ids = [job.job_id for job in queue]
    start = ids.index(job_id)
    target = min(max(position, 1), len(ids)) - 1
    visitor = queue[start].visitor
    places = [index for index, job in enumerate(queue) if not own_only or job.visitor == visitor]
    others = [ids[index] for index in places if index != start]
    if target <= start:
        before = sum(index < target for index in places)
    else:
        before = sum(index <= target for index in places) - 1
    others.insert(before, job_id)
    for index, other in zip(places, others, strict=True):
        ids[index] = other
    return ids


class QueueOrder:
    """The order of a store's waiting jobs. The caller sees to it that no job is added meanwhile."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def move(self, job_id: str, position: int, own_only: bool) -> None:
        """Move a waiting job as `moved` does. Raises NotWaiting."""
        rows = self._store.rows(
            "SELECT id, visitor, turn, seq FROM jobs WHERE status = 'in_queue' ORDER BY ready DESC, turn, seq",
            {},
        )
        queue = [WaitingJob(row["id"], row["visitor"]) for row in rows]
        if job_id not in [job.job_id for job in queue]:
            raise NotWaiting("Only a request that waits can be moved, and this one does not wait any more.")
        ids, by_turn = moved(queue, job_id, position, own_only), sorted(rows, key=lambda row: (row["turn"], row["seq"]))
        if own_only:
            # Others keep their turns, also those whose files are still downloaded: such a job may have an early one.
            visitors = {job.job_id: job.visitor for job in queue}
            visitor = visitors[job_id]
            own = iter([each for each in ids if visitors[each] == visitor])
            ids = [next(own) if row["visitor"] == visitor else row["id"] for row in by_turn]
        # New numbers behind all others: no two jobs have the same at any moment of the statement. The turns stay with
        # the positions, so that jobs which are added later come where they would have come.
        places = [[job_id, row["turn"]] for job_id, row in zip(ids, by_turn, strict=True)]
        self._store.rows(
            """
            WITH places AS MATERIALIZED (
                SELECT key AS place, json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS turn
                FROM json_each(:places)
            )
            UPDATE jobs SET seq = (SELECT max(seq) FROM jobs) + 1 + place, turn = places.turn
            FROM places WHERE jobs.id = places.id AND status = 'in_queue'
            """,
            {"places": json.dumps(places)},
        )


class PlacedJobs:
    """The jobs that the owner has moved: each comes after what is before it and before what is behind it.

    Else visitors take turns by the seconds that they were given, whatever the positions. Not thread-safe.
    """

    def __init__(self) -> None:
        self._moved: set[str] = set()

    def add(self, job_id: str) -> None:
        """A waiting job was moved."""
        self._moved.add(job_id)

    def stages(self, queue: Sequence[tuple[str, Status]]) -> tuple[frozenset[str], ...]:
        """The jobs in parts of which each is to be begun before the next; other jobs that run are in none.

        `queue` are the jobs that run and then those that could run now, in their order. A job that was moved is a part,
        and so are those between two.
        """
        waiting = [job_id for job_id, status in queue if status == "in_queue"]
        parts = [[job_id for job_id, status in queue if status != "in_queue" and job_id in self._moved], []]
        for job_id in waiting:
            if job_id in self._moved:
                parts += [[job_id], []]
            else:
                parts[-1].append(job_id)
        return tuple(frozenset(part) for part in parts if part)

    def forget(self, job_id: str) -> None:
        """A job ends."""
        self._moved.discard(job_id)
