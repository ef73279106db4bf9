"""Watched training jobs and their standing comparisons in the job database.

A standing comparison is an ordinary job whose row names the watched training job. It grows by one clip at a time, each
in a single conditional UPDATE that needs an idle queue, so that any other request comes next.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from wan_ui.jobs.store import dump_generations, timestamp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wan_ui.compare import PlannedCell
    from wan_ui.job import Job
    from wan_ui.jobs.store import Store
    from wan_ui.request import Generation

_IDLE = "NOT EXISTS (SELECT 1 FROM jobs WHERE status IN ('in_queue', 'in_progress'))"


@dataclass(frozen=True)
class Watch:
    """A watched training job. `skipped` are labels of saves that are not rendered, and `problem` says why one was not.

    `visitor` is the browser of the owner that began it; the comparison is its job.
    """

    job_id: str
    visitor: str | None
    started_at: str
    skipped: frozenset[str]
    problem: str | None


@dataclass(frozen=True)
class StandingComparison:
    """The content of a standing comparison's row: its request in wire form, generations, cells and notes."""

    request: Mapping[str, Any]
    generations: Sequence[Generation]
    cells: Sequence[PlannedCell]
    notes: Sequence[str]


class WatchStore:
    """The watches of a job store. Every method raises HostError when the database cannot be read or written."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, job_id: str, visitor: str | None, skipped: Sequence[str]) -> None:
        """Begin to watch a training job; one that is watched already is unchanged."""
        self._store.rows(
            """
            INSERT INTO watches (job_id, visitor, started_at, skipped) VALUES (:job, :visitor, :now, :skipped)
            ON CONFLICT (job_id) DO NOTHING
            """,
            {"job": job_id, "visitor": visitor, "now": timestamp(), "skipped": json.dumps(sorted(skipped))},
        )

    def remove(self, job_id: str) -> bool:
        """End a watch; its comparisons stay. Returns whether there was one."""
        return bool(self._store.rows("DELETE FROM watches WHERE job_id = :job RETURNING job_id", {"job": job_id}))

    def all(self) -> tuple[Watch, ...]:
        """All watches, in the order in which they were begun."""
        rows = self._store.rows("SELECT * FROM watches ORDER BY started_at, job_id", {})
        return tuple(
            Watch(
                row["job_id"],
                row["visitor"],
                row["started_at"],
                frozenset(json.loads(row["skipped"])),
                row["problem"],
            )
            for row in rows
        )

    def skip(self, job_id: str, label: str, problem: str) -> None:
        """Record that a save is not rendered, and why."""
        self._store.rows(
            """
            UPDATE watches SET skipped = json_insert(skipped, '$[#]', :label), problem = :problem WHERE job_id = :job
            """,
            {"job": job_id, "label": label, "problem": problem},
        )

    def comparisons(self, job_id: str) -> tuple[Job, ...]:
        """The comparisons of a watched job, oldest first."""
        rows = self._store.rows("SELECT id FROM jobs WHERE watch = :job ORDER BY created_at, id", {"job": job_id})
        return tuple(self._store.job(row["id"]) for row in rows)

    def is_idle(self) -> bool:
        """Whether no job waits or runs."""
        return bool(self._store.rows(f"SELECT 1 WHERE {_IDLE}", {}))

    def begin_comparison(self, watch: Watch, comparison: StandingComparison) -> str | None:
        """Queue a new comparison with its first clip, if the queue is idle; its id."""
        rows = self._store.rows(
            f"""
            INSERT INTO jobs (id, status, request, generations, notes, total, cells, visitor, created_at, watch)
            SELECT :id, 'in_queue', :request, :generations, :notes, :total, :cells, :visitor, :now, job_id
            FROM watches WHERE job_id = :watch AND {_IDLE} RETURNING id
            """,
            {
                **_columns(comparison),
                "id": secrets.token_hex(16),
                "visitor": watch.visitor,
                "now": timestamp(),
                "watch": watch.job_id,
            },
        )
        return rows[0]["id"] if rows else None

    def extend_comparison(self, job_id: str, comparison: StandingComparison) -> str | None:
        """Queue a finished comparison again with one clip more, if the queue is idle; its id."""
        rows = self._store.rows(
            f"""
            UPDATE jobs SET
                seq = (SELECT max(seq) + 1 FROM jobs), status = 'in_queue', attempts = 0, error = NULL,
                started_at = NULL, finished_at = NULL, request = :request, generations = :generations,
                notes = :notes, total = :total, cells = :cells
            WHERE id = :id AND status IN ('succeeded', 'failed') AND {_IDLE}
                AND watch IN (SELECT job_id FROM watches) RETURNING id
            """,
            {**_columns(comparison), "id": job_id},
        )
        return rows[0]["id"] if rows else None


def _columns(comparison: StandingComparison) -> dict[str, Any]:
    return {
        "request": json.dumps(comparison.request),
        "generations": dump_generations(comparison.generations),
        "notes": json.dumps(list(comparison.notes)),
        "total": len(comparison.generations),
        "cells": json.dumps([asdict(cell) for cell in comparison.cells]),
    }
