"""Leases: which slot renders which clip of a running job, in the job database.

A lease has an epoch, a number that is never used twice. A clip is stored only if the epoch that it was rendered under
is still its lease's, so the late answer of a slot that was taken to have ended is dropped. A lease ends with its clip,
with its job's run, or when it is voided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wan_ui.errors import RenderFailed
from wan_ui.job import Status
from wan_ui.jobs.store import Store, timestamp


@dataclass(frozen=True)
class Lease:
    """Generation `index` of a job is rendered on `slot`."""

    job_id: str
    index: int
    slot: str
    epoch: int


class Leases:
    """The leases in a store's database. Every method raises HostError as the store's do."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def claim(self, job_id: str) -> bool:
        """Set a waiting job to in_progress. Returns False if it does not wait any more; a running one stays so."""
        rows = self._store.rows(
            """
            UPDATE jobs SET status = 'in_progress', started_at = coalesce(started_at, :now)
            WHERE id = :id AND (status = 'in_progress' OR (status = 'in_queue' AND ready = 1)) RETURNING id
            """,
            {"id": job_id, "now": timestamp()},
        )
        return bool(rows)

    def lease(self, job_id: str, index: int, slot: str) -> Lease | None:
        """Lease a clip of a running job; None if the job does not run, has the clip or has leased it already."""
        rows = self._store.rows(
            """
            INSERT INTO leases (job_id, clip_index, slot, created_at)
            SELECT id, :index, :slot, :now FROM jobs WHERE id = :id AND status = 'in_progress'
                AND NOT EXISTS (SELECT 1 FROM clips WHERE job_id = :id AND clip_index = :index)
            ON CONFLICT (job_id, clip_index) DO NOTHING
            RETURNING epoch
            """,
            {"id": job_id, "index": index, "slot": slot, "now": timestamp()},
        )
        return Lease(job_id, index, slot, rows[0]["epoch"]) if rows else None

    def void(self, lease: Lease) -> None:
        """End a lease without a clip: what its slot still answers is dropped."""
        self._store.rows("DELETE FROM leases WHERE epoch = :epoch", {"epoch": lease.epoch})

    def count_attempt(self, job_id: str, max_attempts: int) -> Mapping[str, Any] | None:
        """Count that a slot ended while rendering a clip of a running job; the error of the last permitted attempt."""
        rows = self._store.rows(
            "UPDATE jobs SET attempts = attempts + 1 WHERE id = :id AND status = 'in_progress' RETURNING attempts",
            {"id": job_id},
        )
        if not rows or rows[0]["attempts"] < max_attempts:
            return None
        return RenderFailed(
            f"The process of a GPU ended {max_attempts} times while running this. Try a smaller size, fewer frames or "
            "a lower memory mode.",
            attempts=max_attempts,
        ).body()

    def waiting_jobs(self) -> tuple[tuple[str, Status], ...]:
        """The ids of the jobs that run and, in their order, of those that could run now, each with its status."""
        rows = self._store.rows(
            """
            SELECT id, status FROM jobs WHERE status = 'in_progress' OR (status = 'in_queue' AND ready = 1)
            ORDER BY status, turn, seq
            """,
            {},
        )
        return tuple((row["id"], row["status"]) for row in rows)
