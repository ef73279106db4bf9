"""The job database: the queue of jobs and their clips in one SQLite file that survives a kill.

A job's status only ever changes in a single conditional UPDATE, so two threads cannot both win a transition:

    in_queue ──claim_next──▶ in_progress ──finish──▶ succeeded | failed | canceled
       │  ▲                       │
       │  └──requeue, recover─────┘
       ├──request_cancel──▶ canceled
       └──refuse──▶ failed

    failed | canceled ──retry──▶ in_queue, at the end of the queue

A job in_queue whose LoRA files are still being downloaded is not ready: it is passed over until make_ready.
"""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cachetools import LRUCache, cached

from wan_ui._version import __version__
from wan_ui.access import FileKind
from wan_ui.compare import PlannedCell
from wan_ui.errors import DiskFull, HostError, RenderFailed, RequestNotFound
from wan_ui.job import FINAL, ClipRecord, Job, Status, generation_body, generation_from
from wan_ui.jobs.positions import FROM_END, FROM_FRONT, TURN
from wan_ui.jobs.schema import MIGRATIONS
from wan_ui.request import Generation

MAX_ATTEMPTS = 3
CACHED_TEXT = 16 << 20  # characters of generations whose records are kept in memory

_JOB_ID = re.compile(r"[0-9a-f]{32}")


def dump_generations(generations: Sequence[Generation]) -> str:
    """Generations as JSON text, which load_generations reads back."""
    return _json([generation_body(generation) for generation in generations])


def _text_size(generations: tuple[Generation, ...]) -> int:
    return sum(1000 + len(generation.prompt) + len(generation.neg) for generation in generations)


# Every poll of every page reads the same few dozen jobs again. Bounded by their text, of which a job has a megabyte.
@cached(LRUCache(CACHED_TEXT, getsizeof=_text_size), lock=threading.Lock())
def load_generations(text: str) -> tuple[Generation, ...]:
    """The inverse of dump_generations."""
    return tuple(generation_from(body) for body in json.loads(text))


def _dump_cells(cells: Sequence[PlannedCell]) -> str:
    return _json([cell.stored for cell in cells])


def _load_cells(text: str) -> tuple[PlannedCell, ...]:
    return tuple(PlannedCell(**cell) for cell in json.loads(text)) if text != "[]" else ()


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def timestamp(moment: datetime | None = None) -> str:
    """A moment, now if left out, as the database keeps it: UTC, to the millisecond, in an order that sorts as text."""
    return (moment or datetime.now(UTC)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@contextmanager
def _mapped_errors() -> Iterator[None]:
    """Raises SQLite's errors about the file and the disk as HostError; errors in our SQL pass unchanged."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        # The low byte is the primary code; errors of Python's own module, such as a closed connection, have none.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise DiskFull("The disk has no space left for the job database. Free some and try again.") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise HostError("The job database is locked by another program. Close it and try again.") from error
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            raise HostError(
                f"The job database cannot be used ({error.sqlite_errorname}). Check the data folder and its disk."
            ) from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise HostError(
                f"The job database is damaged ({error.sqlite_errorname}). Move jobs.sqlite out of the data folder, or "
                "restore a backup."
            ) from error
        raise


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Statements that are executed all or none."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _check_version(connection: sqlite3.Connection, known: int) -> int:
    """The number of migrations that a database has. Raises HostError for more than are known."""
    applied: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if applied > known:
        raise HostError(
            f"The job database was written by a newer wan-ui (schema {applied}; this one, wan-ui {__version__}, knows "
            f"{known}). It was left as it is. Update wan-ui, or choose another folder with --data-dir."
        )
    return applied


class Store:
    """Jobs and clips in the SQLite file `path`, which is created or migrated to this version's schema.

    Any thread may call any method: one connection, one lock, every write a single statement. Every method raises
    HostError (DiskFull for a full disk) if SQLite cannot read or write, after waiting `busy_seconds` for a lock.
    """

    def __init__(
        self,
        path: Path,
        *,
        busy_seconds: float = 5.0,
        migrations: Sequence[Sequence[str]] = MIGRATIONS,
    ) -> None:
        self._lock = threading.RLock()
        self._path = path
        with _mapped_errors(), ExitStack() as undo:
            self._connection = sqlite3.connect(
                path, timeout=busy_seconds, isolation_level=None, check_same_thread=False
            )
            undo.callback(self._connection.close)
            self._connection.row_factory = sqlite3.Row
            _check_version(self._connection, len(migrations))  # before anything is written to the file
            self._connection.execute("PRAGMA journal_mode = WAL")
            # FULL: a job whose id was returned survives a power cut too, for one fsync per write.
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA foreign_keys = ON")
            self._migrate(migrations)
            state = path.stat()
            self._identity = (state.st_dev, state.st_ino)
            undo.pop_all()

    @property
    def changes(self) -> int:
        """How many rows this connection has changed; it grows with every change."""
        return self._connection.total_changes

    def close(self) -> None:
        """Close the file. No method may be called afterwards."""
        with self._lock:
            self._connection.close()

    def _migrate(self, migrations: Sequence[Sequence[str]]) -> None:
        with _transaction(self._connection) as connection:
            applied = _check_version(connection, len(migrations))
            for statements in migrations[applied:]:
                for statement in statements:
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {len(migrations)}")

    def rows(self, sql: str, values: Mapping[str, Any]) -> list[sqlite3.Row]:
        """The rows of one statement, for a module with queries of its own; it is executed completely or not at all."""
        with self._lock, _mapped_errors():
            return self._connection.execute(sql, values).fetchall()

    def add_function(self, name: str, arguments: int, function: Callable[..., Any]) -> None:
        """Let statements call a pure function with that many arguments."""
        with self._lock:
            self._connection.create_function(name, arguments, function, deterministic=True)

    def add(
        self,
        request: Mapping[str, Any],
        generations: Sequence[Generation],
        notes: Sequence[str] = (),
        ready: bool = True,
        cells: Sequence[PlannedCell] = (),
        visitor: str | None = None,
        from_guest: bool = False,
    ) -> Job:
        """Add a job to the queue and return it; without `ready` it waits for files first.

        Visitors take turns: a job comes after those that its visitor has waiting, and before the second job of a
        visitor who has sent two meanwhile. All programs count as one visitor.
        """
        problem = self.problem()
        if problem is not None:
            raise problem
        job_id = secrets.token_hex(16)  # 128 random bits: whoever knows the id of a program's job may read it
        self.rows(
            f"""
            INSERT INTO jobs
                (id, status, request, generations, notes, total, ready, cells, visitor, from_guest, turn, created_at)
            VALUES (:id, 'in_queue', :request, :generations, :notes, :total, :ready, :cells, :visitor, :from_guest,
                    {TURN.format(visitor=":visitor")}, :now)
            """,
            {
                "id": job_id,
                "request": _json(request),
                "generations": dump_generations(generations),
                "notes": _json(list(notes)),
                "total": len(generations),
                "ready": ready,
                "cells": _dump_cells(cells),
                "visitor": visitor,
                "from_guest": from_guest,
                "now": timestamp(),
            },
        )
        return self.job(job_id)

    def job(self, job_id: str) -> Job:
        """The job as it is now. Raises RequestNotFound."""
        jobs = self._jobs("WHERE id = :id", {"id": job_id}) if _JOB_ID.fullmatch(job_id) else ()
        if not jobs:
            raise RequestNotFound("There is no request with this id.")
        return jobs[0]

    def recent(self, limit: int, visitor: str | None = None) -> tuple[Job, ...]:
        """The newest jobs, newest first; with `visitor`, only those of that browser."""
        where = "" if visitor is None else "WHERE visitor = :visitor "
        return self._jobs(f"{where}ORDER BY seq DESC LIMIT :limit", {"limit": limit, "visitor": visitor}, FROM_END)

    def record_owner(self, visitor: str, kind: FileKind, file_id: str) -> None:
        """Record that a browser uploaded a file; recording it again changes nothing."""
        if not self.is_owner(visitor, kind, file_id):  # read first: even a write that changes nothing takes a lock
            self.rows(
                "INSERT OR IGNORE INTO holdings (visitor, kind, id) VALUES (:visitor, :kind, :id)",
                {"visitor": visitor, "kind": kind, "id": file_id},
            )

    def record_owners(self, visitor: str, kind: FileKind, file_ids: Sequence[str]) -> None:
        """As `record_owner` for many files, with one transaction for all."""
        self.rows(
            "INSERT OR IGNORE INTO holdings (visitor, kind, id) SELECT :visitor, :kind, value FROM json_each(:ids)",
            {"visitor": visitor, "kind": kind, "ids": json.dumps(list(file_ids))},
        )

    def is_owner(self, visitor: str, kind: FileKind, file_id: str) -> bool:
        """Whether a browser uploaded this file."""
        rows = self.rows(
            "SELECT 1 FROM holdings WHERE visitor = :visitor AND kind = :kind AND id = :id",
            {"visitor": visitor, "kind": kind, "id": file_id},
        )
        return bool(rows)

    def is_available_to(self, visitor: str | None, kind: FileKind, file_id: str) -> bool:
        """Whether a browser uploaded this file, or no browser did."""
        counts = self.rows(
            "SELECT count(*) AS all_of_it, sum(visitor IS :visitor) AS mine FROM holdings "
            "WHERE kind = :kind AND id = :id",
            {"visitor": visitor, "kind": kind, "id": file_id},
        )[0]
        return not counts["all_of_it"] or bool(counts["mine"])

    def forget_canceled(self, before: str) -> int:
        """Delete cancelled jobs without a clip that ended before a time, with their text; returns how many."""
        rows = self.rows(
            """
            DELETE FROM jobs WHERE status = 'canceled' AND finished_at < :before
                AND NOT EXISTS (SELECT 1 FROM clips WHERE clips.job_id = jobs.id)
            RETURNING seq
            """,
            {"before": before},
        )
        return len(rows)

    def size(self) -> int:
        """Bytes of the database that are in use."""
        pages, free, each = (
            self.rows(f"PRAGMA {name}", {})[0][0] for name in ("page_count", "freelist_count", "page_size")
        )
        used: int = (pages - free) * each
        return used

    def problem(self) -> HostError | None:
        """The error of a database file that was removed or replaced since it was opened; None while it is there.

        SQLite goes on with the file that it has open, and all of that would be gone after a restart.
        """
        try:
            state = self._path.stat()
        except OSError:
            state = None
        if state is not None and (state.st_dev, state.st_ino) == self._identity:
            return None
        return HostError(
            "The job database was removed or replaced while the server runs. Put it back, or restart the server; what "
            "is rendered until then is not listed afterwards."
        )

    def move_records(self, old: str, new: str) -> None:
        """Give everything that belongs to one browser to another: its jobs, its gallery entries, its uploads."""
        with self._lock, _mapped_errors():
            tables = self._connection.execute(
                "SELECT tables.name FROM sqlite_master AS tables, pragma_table_info(tables.name) AS columns "
                "WHERE tables.type = 'table' AND columns.name = 'visitor'"
            ).fetchall()
            with _transaction(self._connection) as connection:
                for table in tables:
                    connection.execute(
                        f'UPDATE OR REPLACE "{table["name"]}" SET visitor = :new WHERE visitor = :old',
                        {"old": old, "new": new},
                    )

    def unfinished(self, limit: int | None = None) -> tuple[Job, ...]:
        """The running job and the waiting ones in their order, at most `limit`."""
        return self._jobs(
            """
            WHERE seq IN (SELECT seq FROM jobs WHERE status IN ('in_progress', 'in_queue')
                          ORDER BY status, ready DESC, turn, seq LIMIT :limit)
            ORDER BY status, ready DESC, turn, seq
            """,
            {"limit": -1 if limit is None else limit},
        )

    def waiting(self) -> int:
        """The number of waiting jobs."""
        return self._waiting("true")

    def waiting_of(self, visitor: str | None) -> int:
        """The number of waiting jobs that one browser sent; None: that programs sent."""
        return self._waiting("visitor IS :visitor", visitor)

    def waiting_of_guests(self) -> int:
        """The number of waiting jobs that guests and programs sent."""
        return self._waiting("from_guest")

    def _waiting(self, condition: str, visitor: str | None = None) -> int:
        sql = f"SELECT count(*) AS jobs FROM jobs WHERE status = 'in_queue' AND {condition}"
        count: int = self.rows(sql, {"visitor": visitor})[0]["jobs"]
        return count

    def unready(self) -> tuple[Job, ...]:
        """The waiting jobs whose files are not all downloaded, oldest first."""
        return self._jobs("WHERE status = 'in_queue' AND ready = 0 ORDER BY turn, seq", {})

    def make_ready(
        self,
        job_id: str,
        generations: Sequence[Generation],
        notes: Sequence[str],
        cells: Sequence[PlannedCell] = (),
    ) -> None:
        """Let a waiting job run, with generations that name its downloaded files. A canceled job is unchanged."""
        self.rows(
            """
            UPDATE jobs SET ready = 1, generations = :generations, notes = :notes, total = :total, cells = :cells
            WHERE id = :id AND status = 'in_queue' AND NOT ready
            """,
            {
                "id": job_id,
                "generations": dump_generations(generations),
                "notes": _json(list(notes)),
                "total": len(generations),
                "cells": _dump_cells(cells),
            },
        )

    def refuse(self, job_id: str, error: Mapping[str, Any]) -> None:
        """Fail a waiting job whose files cannot be downloaded or do not fit. A canceled job is unchanged."""
        self.rows(
            """
            UPDATE jobs SET status = 'failed', error = :error, finished_at = :now
            WHERE id = :id AND status = 'in_queue' AND NOT ready
            """,
            {"id": job_id, "error": _json(error), "now": timestamp()},
        )

    def claim_next(self) -> str | None:
        """Set the ready job whose turn it is to in_progress and return its id, or None without one."""
        rows = self.rows(
            """
            UPDATE jobs SET status = 'in_progress', started_at = :now
            WHERE seq = (SELECT seq FROM jobs WHERE status = 'in_queue' AND ready = 1 ORDER BY turn, seq LIMIT 1)
                AND status = 'in_queue'
            RETURNING id
            """,
            {"now": timestamp()},
        )
        return rows[0]["id"] if rows else None

    def request_cancel(self, job_id: str) -> None:
        """Cancel a waiting job at once and flag a running one for the worker; a finished job is unchanged."""
        self.rows(
            """
            UPDATE jobs SET
                cancel_requested = 1,
                status = CASE status WHEN 'in_queue' THEN 'canceled' ELSE status END,
                finished_at = CASE status WHEN 'in_queue' THEN :now END
            WHERE id = :id AND status IN ('in_queue', 'in_progress')
            """,
            {"id": job_id, "now": timestamp()},
        )

    def cancel_requested(self, job_id: str) -> bool:
        """Whether the job's cancellation was requested."""
        rows = self.rows("SELECT 1 FROM jobs WHERE id = :id AND cancel_requested", {"id": job_id})
        return bool(rows)

    def begin_clip(self, job_id: str, file: str) -> None:
        """Record the file, relative to the data folder, that a running job's next clip is being written to."""
        self.rows(
            "UPDATE jobs SET writing = :file WHERE id = :id AND status = 'in_progress'", {"id": job_id, "file": file}
        )

    def incomplete_files(self) -> tuple[str, ...]:
        """Files that were begun and never became a clip. Only for a process that alone uses the data folder."""
        rows = self.rows(
            "SELECT writing FROM jobs WHERE writing IS NOT NULL AND writing NOT IN (SELECT file FROM clips)", {}
        )
        return tuple(row["writing"] for row in rows)

    def forget_incomplete_files(self) -> None:
        """Record that the incomplete files were removed."""
        self.rows("UPDATE jobs SET writing = NULL WHERE writing IS NOT NULL", {})

    def counts(self) -> dict[Status, int]:
        """The number of jobs by status."""
        rows = self.rows("SELECT status, count(*) AS jobs FROM jobs GROUP BY status", {})
        return {"in_queue": 0, "in_progress": 0, **dict.fromkeys(FINAL, 0)} | {
            row["status"]: row["jobs"] for row in rows
        }

    def add_clip(self, job_id: str, clip: ClipRecord, epoch: int | None = None) -> bool:
        """Add a finished clip to a running job. Returns False, without adding it, if the job no longer runs.

        With the `epoch` of a lease, also if the clip was leased again or its lease was voided meanwhile.
        """
        rows = self.rows(
            """
            INSERT INTO clips (job_id, clip_index, width, height, num_frames, fps, seed, file, metadata, created_at)
            SELECT id, :index, :width, :height, :num_frames, :fps, :seed, :file, :metadata, :now
            FROM jobs WHERE id = :id AND status = 'in_progress' AND (:epoch IS NULL OR EXISTS
                (SELECT 1 FROM leases WHERE epoch = :epoch AND job_id = :id AND clip_index = :index))
            RETURNING clip_index
            """,
            {**vars(clip), "metadata": _json(dict(clip.metadata)), "id": job_id, "epoch": epoch, "now": timestamp()},
        )
        return bool(rows)

    def finish(
        self, job_id: str, status: Literal["succeeded", "failed", "canceled"], error: Mapping[str, Any] | None = None
    ) -> Status | None:
        """End a running job and return its new status, or None if it was not running.

        A job whose cancellation was requested ends as canceled even if its last clip was finished, as the reply to
        that request promised.
        """
        rows = self.rows(
            """
            UPDATE jobs SET
                status = CASE WHEN :status = 'succeeded' AND cancel_requested THEN 'canceled' ELSE :status END,
                error = :error, finished_at = :now
            WHERE id = :id AND status = 'in_progress'
            RETURNING status
            """,
            {"id": job_id, "status": status, "error": None if error is None else _json(error), "now": timestamp()},
        )
        return rows[0]["status"] if rows else None

    def add_failure(self, job_id: str, index: int, error: Mapping[str, Any]) -> None:
        """Record that a generation of a running job could not be rendered; any other job is unchanged."""
        self.rows(
            """
            UPDATE jobs SET failures = json_set(failures, :path, json(:error))
            WHERE id = :id AND status = 'in_progress'
            """,
            {"id": job_id, "path": f'$."{index}"', "error": _json(error)},
        )

    def retry(self, job_id: str) -> None:
        """Put a failed or canceled job into the queue like a new one, keeping its clips; any other job is unchanged."""
        self.rows(
            f"""
            UPDATE jobs SET
                seq = (SELECT max(seq) + 1 FROM jobs), turn = {TURN.format(visitor="jobs.visitor")},
                status = 'in_queue', attempts = 0, cancel_requested = 0,
                error = NULL, failures = '{{}}', started_at = NULL, finished_at = NULL
            WHERE id = :id AND status IN ('failed', 'canceled')
            """,
            {"id": job_id},
        )

    def requeue(self, job_id: str) -> None:
        """Return a running job to its old position without counting an attempt; cancel it if that was requested."""
        self.rows(
            """
            UPDATE jobs SET
                status = CASE WHEN cancel_requested THEN 'canceled' ELSE 'in_queue' END,
                started_at = CASE WHEN cancel_requested THEN started_at END,
                finished_at = CASE WHEN cancel_requested THEN :now END
            WHERE id = :id AND status = 'in_progress'
            """,
            {"id": job_id, "now": timestamp()},
        )

    def recover(self, max_attempts: int = MAX_ATTEMPTS) -> dict[str, Status]:
        """Requeue the jobs that a dead process left running, and return the status each now has, by id.

        They wait at their old position with their finished clips and one attempt more; after `max_attempts` they
        fail. Only for a process that alone uses the data folder, before its worker starts.
        """
        times = {1: "once", 2: "twice", 3: "three times"}.get(max_attempts, f"{max_attempts} times")
        error = RenderFailed(
            f"The process ended {times} while running this. Try a smaller size, fewer frames or a lower memory mode.",
            attempts=max_attempts,
        )
        rows = self.rows(
            """
            UPDATE jobs SET
                attempts = attempts + 1,
                status = CASE WHEN cancel_requested THEN 'canceled'
                              WHEN attempts + 1 >= :max_attempts THEN 'failed' ELSE 'in_queue' END,
                error = CASE WHEN NOT cancel_requested AND attempts + 1 >= :max_attempts THEN :error END,
                started_at = CASE WHEN cancel_requested OR attempts + 1 >= :max_attempts THEN started_at END,
                finished_at = CASE WHEN cancel_requested OR attempts + 1 >= :max_attempts THEN :now END
            WHERE status = 'in_progress'
            RETURNING id, status
            """,
            {"max_attempts": max_attempts, "error": _json(error.body()), "now": timestamp()},
        )
        return {row["id"]: row["status"] for row in rows}

    def _jobs(self, where: str, values: Mapping[str, Any], place: str = FROM_FRONT) -> tuple[Job, ...]:
        with self._lock:  # both queries see the same state
            rows = self.rows(
                f"SELECT *, CASE status WHEN 'in_queue' THEN {place} END AS position FROM jobs {where}", values
            )
            clips: dict[str, list[ClipRecord]] = {row["id"]: [] for row in rows}
            for clip in self.rows(
                """
                SELECT * FROM clips WHERE job_id IN (SELECT value FROM json_each(:ids)) ORDER BY job_id, clip_index
                """,
                {"ids": _json(list(clips))},
            ):
                clips[clip["job_id"]].append(_clip(clip))
        return tuple(_job(row, tuple(clips[row["id"]])) for row in rows)


def _clip(row: sqlite3.Row) -> ClipRecord:
    return ClipRecord(
        index=row["clip_index"],
        width=row["width"],
        height=row["height"],
        num_frames=row["num_frames"],
        fps=row["fps"],
        seed=row["seed"],
        file=row["file"],
        metadata=json.loads(row["metadata"]),
    )


def _job(row: sqlite3.Row, clips: tuple[ClipRecord, ...]) -> Job:
    return Job(
        id=row["id"],
        status=row["status"],
        request=json.loads(row["request"]),
        generations=load_generations(row["generations"]),
        notes=tuple(json.loads(row["notes"])),
        clips=clips,
        error=None if row["error"] is None else json.loads(row["error"]),
        attempts=row["attempts"],
        cancel_requested=bool(row["cancel_requested"]),
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        position=row["position"],
        ready=bool(row["ready"]),
        cells=_load_cells(row["cells"]),
        failures={int(index): error for index, error in json.loads(row["failures"]).items()},
        visitor=row["visitor"],
        from_guest=bool(row["from_guest"]),
    )
