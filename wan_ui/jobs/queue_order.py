"""Moves a waiting job to another position of the queue."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from wan_ui.errors import NotWaiting
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
            "SELECT id, visitor, turn FROM jobs WHERE status = 'in_queue' ORDER BY ready DESC, turn, seq",
            {},
        )
        queue = [WaitingJob(row["id"], row["visitor"]) for row in rows]
        if job_id not in [job.job_id for job in queue]:
            raise NotWaiting("Only a request that waits can be moved, and this one does not wait any more.")
        # New numbers behind all others: no two jobs have the same at any moment of the statement. The turns stay with
        # the positions, so that jobs which are added later come where they would have come.
        turns = sorted(row["turn"] for row in rows)
        ordered = dict(zip(moved(queue, job_id, position, own_only), turns, strict=True))
        self._store.rows(
            """
            UPDATE jobs SET
                seq = (SELECT max(seq) FROM jobs) + 1 + (SELECT key FROM json_each(:ids) WHERE value = jobs.id),
                turn = (SELECT value FROM json_each(:turns) WHERE key = jobs.id)
            WHERE status = 'in_queue' AND id IN (SELECT value FROM json_each(:ids))
            """,
            {"ids": json.dumps(list(ordered)), "turns": json.dumps(ordered)},
        )
