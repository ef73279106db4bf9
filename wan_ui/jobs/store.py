"""The line of jobs and their clips in one SQLite file that survives a kill; it knows no engine, thread or door.

A job's status only ever changes in a single conditional UPDATE, so two threads cannot both win a transition:

    in_queue ──claim_next──▶ in_progress ──finish──▶ succeeded | failed | canceled
       │  ▲                       │
       │  └──put_back, recover────┘
       ├──request_cancel──▶ canceled
       └──refuse──▶ failed

    failed | canceled ──retry──▶ in_queue, at the end of the line

A job in_queue whose LoRA files are still being fetched is not ready: it is passed over until make_ready.
"""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from wan_ui.access import FileKind
from wan_ui.compare import PlannedCell
from wan_ui.errors import DiskFull, HostError, RenderFailed, RequestNotFound
from wan_ui.request import Generation, LoraUse

Status = Literal["in_queue", "in_progress", "succeeded", "failed", "canceled"]
FINAL: frozenset[Status] = frozenset({"succeeded", "failed", "canceled"})
MAX_ATTEMPTS = 3

_JOB_ID = re.compile(r"[0-9a-f]{32}")

_NEW_CLIP = "clip.job_id = NEW.job_id AND clip.clip_index = NEW.clip_index"
_LIST_CLIP = """
    INSERT INTO entries (job_id, clip_index, visitor, model, prompt, made_at)
    SELECT jobs.id, CASE jobs.cells WHEN '[]' THEN clip.clip_index ELSE -1 END, jobs.visitor,
        json_extract(jobs.generations, '$[' || clip.clip_index || '].model'),
        CASE jobs.cells
            WHEN '[]' THEN json_extract(jobs.generations, '$[' || clip.clip_index || '].prompt')
            ELSE (SELECT group_concat(prompt, char(10)) FROM
                  (SELECT DISTINCT json_extract(one.value, '$.prompt') AS prompt
                   FROM json_each(jobs.generations) AS one))
        END,
        clip.created_at
    FROM clips AS clip JOIN jobs ON jobs.id = clip.job_id WHERE {which}
    ON CONFLICT (job_id, clip_index) DO UPDATE SET made_at = excluded.made_at
"""
# A file's name as the render knew it; of a clip that does not tell, the end of its path, without an address's query.
_LIST_LORAS = """
    INSERT OR IGNORE INTO entry_loras (entry, name, sha256)
    SELECT entry, coalesce(told, replace(path, rtrim(path, replace(path, '/', '')), '')), sha256 FROM (
        SELECT entries.seq AS entry,
            substr(json_extract(use.value, '$.path'), 1, instr(json_extract(use.value, '$.path') || '?', '?') - 1)
                AS path,
            coalesce(json_extract(use.value, '$.sha256'), '') AS sha256,
            (SELECT json_extract(file.value, '$.name')
             FROM json_each(clip.metadata, '$.lora') AS slot, json_each(slot.value, '$.files') AS file
             WHERE json_extract(file.value, '$.sha256') = json_extract(use.value, '$.sha256')) AS told
        FROM clips AS clip JOIN jobs ON jobs.id = clip.job_id
        JOIN entries ON entries.job_id = clip.job_id
            AND entries.clip_index = CASE jobs.cells WHEN '[]' THEN clip.clip_index ELSE -1 END,
        json_each(jobs.generations, '$[' || clip.clip_index || '].loras') AS use
        WHERE {which}
    )
"""

# Each entry is one schema version, applied in one transaction; `PRAGMA user_version` counts those applied.
# Entries are only ever appended: files written by an older wan-ui are brought up by the ones they lack.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE jobs (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            status TEXT NOT NULL CHECK (status IN ('in_queue', 'in_progress', 'succeeded', 'failed', 'canceled')),
            request TEXT NOT NULL,
            generations TEXT NOT NULL,
            notes TEXT NOT NULL,
            total INTEGER NOT NULL,
            attempts INTEGER NOT NULL DEFAULT 0,
            cancel_requested INTEGER NOT NULL DEFAULT 0,
            error TEXT,
            created_at TEXT NOT NULL,
            started_at TEXT,
            finished_at TEXT
        )
        """,
        "CREATE INDEX jobs_line ON jobs (status, seq)",
        """
        CREATE TABLE clips (
            job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
            clip_index INTEGER NOT NULL,
            width INTEGER NOT NULL,
            height INTEGER NOT NULL,
            num_frames INTEGER NOT NULL,
            fps INTEGER NOT NULL,
            seed INTEGER NOT NULL,
            file TEXT NOT NULL UNIQUE,
            metadata TEXT NOT NULL,
            created_at TEXT NOT NULL,
            PRIMARY KEY (job_id, clip_index)
        )
        """,
    ),
    ("ALTER TABLE jobs ADD COLUMN ready INTEGER NOT NULL DEFAULT 1",),
    (
        "ALTER TABLE jobs ADD COLUMN cells TEXT NOT NULL DEFAULT '[]'",
        # Errors by generation index; in the job's own row, so that a retry clears them in the write that queues it.
        "ALTER TABLE jobs ADD COLUMN failures TEXT NOT NULL DEFAULT '{}'",
    ),
    (
        # The clip's file that is being made: one that a killed process wrote and did not list is found by its name.
        "ALTER TABLE jobs ADD COLUMN writing TEXT",
    ),
    (
        # All that a place in line depends on: with a thousand jobs waiting, every look at the line counts many of them.
        "CREATE INDEX jobs_place ON jobs (status, ready DESC, seq)",
        "DROP INDEX jobs_line",
    ),
    (
        # The browser that a job came from; null over HTTP without a browser, and for jobs from before there were such.
        "ALTER TABLE jobs ADD COLUMN visitor TEXT",
        "CREATE INDEX jobs_visitor ON jobs (visitor, seq)",
        """
        CREATE TABLE holdings (
            visitor TEXT NOT NULL,
            kind TEXT NOT NULL CHECK (kind IN ('lora', 'image')),
            id TEXT NOT NULL,
            PRIMARY KEY (visitor, kind, id)
        ) WITHOUT ROWID
        """,
    ),
    # The gallery: an entry for each clip, one for all clips of a comparison, which triggers keep as the clips are.
    (
        """
        CREATE TABLE entries (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
            clip_index INTEGER NOT NULL, -- -1: a comparison
            visitor TEXT,
            model TEXT NOT NULL,
            prompt TEXT NOT NULL,
            kept INTEGER NOT NULL DEFAULT 0,
            made_at TEXT NOT NULL,
            UNIQUE (job_id, clip_index)
        )
        """,
        "CREATE INDEX entries_visitor ON entries (visitor, seq)",
        "CREATE INDEX entries_model ON entries (model, seq)",
        "CREATE INDEX entries_kept ON entries (seq) WHERE kept",
        "CREATE INDEX entries_made ON entries (made_at) WHERE NOT kept",
        """
        CREATE TABLE entry_loras (
            entry INTEGER NOT NULL REFERENCES entries (seq) ON DELETE CASCADE,
            name TEXT NOT NULL,
            sha256 TEXT NOT NULL,
            PRIMARY KEY (entry, sha256, name)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX entry_loras_sha256 ON entry_loras (sha256, entry)",
        "CREATE INDEX entry_loras_name ON entry_loras (name, entry)",
        # Files whose clip is deleted, until they are gone from the disk too.
        "CREATE TABLE doomed (file TEXT PRIMARY KEY, job_id TEXT NOT NULL, clip_index INTEGER NOT NULL) WITHOUT ROWID",
        f"{_LIST_CLIP.format(which='true ORDER BY clip.created_at, clip.clip_index')}",
        f"{_LIST_LORAS.format(which='true')}",
        f"""
        CREATE TRIGGER clip_made AFTER INSERT ON clips BEGIN
            {_LIST_CLIP.format(which=_NEW_CLIP)};
            {_LIST_LORAS.format(which=_NEW_CLIP)};
        END
        """,
        """
        CREATE TRIGGER clip_gone AFTER DELETE ON clips BEGIN
            INSERT OR REPLACE INTO doomed (file, job_id, clip_index)
            VALUES (OLD.file, OLD.job_id, OLD.clip_index);
            DELETE FROM entries WHERE job_id = OLD.job_id AND clip_index = OLD.clip_index;
            DELETE FROM entries WHERE job_id = OLD.job_id AND clip_index = -1
                AND NOT EXISTS (SELECT 1 FROM clips WHERE job_id = OLD.job_id);
            -- A request of which nothing is left goes with its last clip: its prompt is in it.
            DELETE FROM jobs WHERE id = OLD.job_id AND status IN ('succeeded', 'failed', 'canceled')
                AND NOT EXISTS (SELECT 1 FROM clips WHERE job_id = OLD.job_id);
        END
        """,
    ),
)


@dataclass(frozen=True)
class ClipRecord:
    """A finished clip: `index` is its prompt's, from 0; `file` is relative to the data folder; sizes in pixels."""

    index: int
    width: int
    height: int
    num_frames: int
    fps: int
    seed: int
    file: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """One row of the line as it was at one moment.

    `request` is the wire form without nulls, its images as `upload://<sha256>`. `clips` are those finished so far,
    in prompt order. `error` is an error's `body()`. `attempts` counts the processes that ended while running it.
    Times are ISO 8601 in UTC ending in Z. `position` is 1 for the next to run, None unless in_queue. `ready` is False
    while LoRA files are fetched for it; such jobs stand behind those that could run now. `cells` are a comparison's,
    row by row, and `failures` the errors of those of its generations that could not be rendered, by their index.
    `visitor` is the browser it came from, None over HTTP without one. `hidden`: another's job, without what it is of.
    """

    id: str
    status: Status
    request: Mapping[str, Any]
    generations: tuple[Generation, ...]
    notes: tuple[str, ...]
    clips: tuple[ClipRecord, ...]
    error: Mapping[str, Any] | None
    attempts: int
    cancel_requested: bool
    created_at: str
    started_at: str | None
    finished_at: str | None
    position: int | None
    ready: bool = True
    cells: tuple[PlannedCell, ...] = ()
    failures: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    visitor: str | None = None
    hidden: bool = False


def lora_use_body(use: LoraUse) -> dict[str, Any]:
    """A LoRA of a generation as it is stored in the database and in MP4s, and sent by the API."""
    return {"slot": use.slot, "path": use.path, "multiplier": use.scale, "sha256": use.sha256}


def lora_use_from(body: Mapping[str, Any]) -> LoraUse:
    """The LoRA that lora_use_body wrote. Raises KeyError for another mapping."""
    return LoraUse(body["slot"], body["path"], body["multiplier"], body.get("sha256"))


def generation_body(generation: Generation) -> dict[str, Any]:
    """A generation as it is stored in the database and in MP4s, JSON-ready."""
    base = generation.base if isinstance(generation.base, str) else dict(generation.base)
    return {**asdict(generation), "loras": [lora_use_body(use) for use in generation.loras], "base": base}


def generation_from(body: Mapping[str, Any]) -> Generation:
    """The generation that generation_body wrote. Raises KeyError or TypeError for another mapping."""
    loras = tuple(lora_use_from(use) for use in body["loras"])
    base = body.get("base", "auto")
    named = base if isinstance(base, str) else tuple((str(component), str(name)) for component, name in base.items())
    return Generation(**{**body, "loras": loras, "ignored": tuple(body["ignored"]), "base": named})


def dump_generations(generations: Sequence[Generation]) -> str:
    """Generations as JSON text; load_generations gives back equal ones."""
    return _json([generation_body(generation) for generation in generations])


@lru_cache(maxsize=256)  # every look of every page reads the same few dozen jobs again
def load_generations(text: str) -> tuple[Generation, ...]:
    """The inverse of dump_generations."""
    return tuple(generation_from(body) for body in json.loads(text))


def _dump_cells(cells: Sequence[PlannedCell]) -> str:
    return _json([asdict(cell) for cell in cells])


def _load_cells(text: str) -> tuple[PlannedCell, ...]:
    return tuple(PlannedCell(**cell) for cell in json.loads(text)) if text != "[]" else ()


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@contextmanager
def _mapped() -> Iterator[None]:
    """SQLite's errors that the operator can mend, as ours; mistakes in our SQL pass as they are."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        # The low byte is the primary code; errors of Python's own module, such as a closed connection, have none.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise DiskFull("There is no disk space left for the list of jobs. Free some and try again.") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise HostError("The list of jobs is locked by another program. Close it and try again.") from error
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            raise HostError(
                f"The list of jobs cannot be written ({error.sqlite_errorname}). Check the data folder and its disk."
            ) from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise HostError(
                f"The list of jobs is damaged ({error.sqlite_errorname}). Move jobs.sqlite out of the data folder, or "
                "put a backup in its place."
            ) from error
        raise


# A waiting job's place in line, counted from the end that is nearer to the jobs asked for: each count is a walk.
_FROM_FRONT = """
    (SELECT count(*) FROM jobs AS ahead
     WHERE ahead.status = 'in_queue' AND ahead.ready = jobs.ready AND ahead.seq <= jobs.seq)
    + CASE jobs.ready WHEN 1 THEN 0 ELSE
      (SELECT count(*) FROM jobs AS ahead WHERE ahead.status = 'in_queue' AND ahead.ready = 1) END
"""
_FROM_END = """
    CASE jobs.ready WHEN 1 THEN (SELECT count(*) FROM jobs AS waits WHERE waits.status = 'in_queue' AND waits.ready = 1)
    ELSE (SELECT count(*) FROM jobs AS waits WHERE waits.status = 'in_queue') END
    - (SELECT count(*) FROM jobs AS behind
       WHERE behind.status = 'in_queue' AND behind.ready = jobs.ready AND behind.seq > jobs.seq)
"""


class Store:
    """Jobs and clips in the SQLite file `path`, which is made or brought to this version's schema.

    Any thread may call any method: one connection, one lock, every write a single statement. Every method raises
    HostError (DiskFull when that is it) if SQLite cannot read or write, after waiting `busy_seconds` for a lock.
    """

    def __init__(
        self,
        path: Path,
        *,
        busy_seconds: float = 5.0,
        migrations: Sequence[Sequence[str]] = MIGRATIONS,
    ) -> None:
        self._lock = threading.RLock()
        with _mapped(), ExitStack() as undo:
            self._connection = sqlite3.connect(
                path, timeout=busy_seconds, isolation_level=None, check_same_thread=False
            )
            undo.callback(self._connection.close)
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA journal_mode = WAL")
            # FULL: a job that was answered for is on disk, a power cut included; it costs one fsync per write.
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA foreign_keys = ON")
            self._migrate(migrations)
            undo.pop_all()

    @property
    def changes(self) -> int:
        """How many rows this process has changed since it began."""
        return self._connection.total_changes

    def close(self) -> None:
        """Closes the file. No method may be called after."""
        with self._lock:
            self._connection.close()

    def _migrate(self, migrations: Sequence[Sequence[str]]) -> None:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            applied: int = connection.execute("PRAGMA user_version").fetchone()[0]
            if applied > len(migrations):
                raise HostError(
                    f"The list of jobs was written by a newer wan-ui (schema {applied}, this one knows "
                    f"{len(migrations)}). Update wan-ui, or choose another folder with --data-dir."
                )
            for statements in migrations[applied:]:
                for statement in statements:
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {len(migrations)}")
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def rows(self, sql: str, values: Mapping[str, Any]) -> list[sqlite3.Row]:
        """The rows of one statement, for a room that has queries of its own; it is whole or not at all."""
        return self._execute(sql, values)

    def add_function(self, name: str, arguments: int, function: Callable[..., Any]) -> None:
        """Lets statements call a pure function of so many arguments."""
        with self._lock:
            self._connection.create_function(name, arguments, function, deterministic=True)

    def _execute(self, sql: str, values: Mapping[str, Any]) -> list[sqlite3.Row]:
        with self._lock, _mapped():
            return self._connection.execute(sql, values).fetchall()

    def add(
        self,
        request: Mapping[str, Any],
        generations: Sequence[Generation],
        notes: Sequence[str] = (),
        ready: bool = True,
        cells: Sequence[PlannedCell] = (),
        visitor: str | None = None,
    ) -> Job:
        """A new job at the end of the line; not `ready`: it waits for files first."""
        job_id = secrets.token_hex(16)  # 128 random bits: over HTTP, knowing the id is what lets one read
        self._execute(
            """
            INSERT INTO jobs (id, status, request, generations, notes, total, ready, cells, visitor, created_at)
            VALUES (:id, 'in_queue', :request, :generations, :notes, :total, :ready, :cells, :visitor, :now)
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
                "now": _now(),
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
        """The newest jobs, newest first; with `visitor`, of that browser alone."""
        where = "" if visitor is None else "WHERE visitor = :visitor "
        return self._jobs(f"{where}ORDER BY seq DESC LIMIT :limit", {"limit": limit, "visitor": visitor}, _FROM_END)

    def record_owner(self, visitor: str, kind: FileKind, file_id: str) -> None:
        """Record that a browser uploaded a file; recording it again changes nothing."""
        if not self.is_owner(visitor, kind, file_id):  # read first: even a write that changes nothing takes a lock
            self._execute(
                "INSERT OR IGNORE INTO holdings (visitor, kind, id) VALUES (:visitor, :kind, :id)",
                {"visitor": visitor, "kind": kind, "id": file_id},
            )

    def is_owner(self, visitor: str, kind: FileKind, file_id: str) -> bool:
        """Whether a browser uploaded this file."""
        rows = self._execute(
            "SELECT 1 FROM holdings WHERE visitor = :visitor AND kind = :kind AND id = :id",
            {"visitor": visitor, "kind": kind, "id": file_id},
        )
        return bool(rows)

    def is_available_to(self, visitor: str | None, kind: FileKind, file_id: str) -> bool:
        """Whether a browser uploaded this file, or no browser did."""
        counts = self._execute(
            "SELECT count(*) AS all_of_it, sum(visitor IS :visitor) AS mine FROM holdings "
            "WHERE kind = :kind AND id = :id",
            {"visitor": visitor, "kind": kind, "id": file_id},
        )[0]
        return not counts["all_of_it"] or bool(counts["mine"])

    def unfinished(self, limit: int | None = None) -> tuple[Job, ...]:
        """The running job and those waiting, in their order; at most `limit` of them."""
        return self._jobs(
            """
            WHERE seq IN (SELECT seq FROM jobs WHERE status IN ('in_progress', 'in_queue')
                          ORDER BY status, ready DESC, seq LIMIT :limit)
            ORDER BY status, ready DESC, seq
            """,
            {"limit": -1 if limit is None else limit},
        )

    def waiting(self) -> int:
        """How many jobs wait in line."""
        count: int = self._execute("SELECT count(*) AS jobs FROM jobs WHERE status = 'in_queue'", {})[0]["jobs"]
        return count

    def waiting_of(self, visitor: str | None) -> int:
        """How many of these came from one browser; None: over HTTP without one."""
        count: int = self._execute(
            "SELECT count(*) AS jobs FROM jobs WHERE status = 'in_queue' AND visitor IS :visitor", {"visitor": visitor}
        )[0]["jobs"]
        return count

    def unready(self) -> tuple[Job, ...]:
        """The waiting jobs whose files are not all here, oldest first."""
        return self._jobs("WHERE status = 'in_queue' AND ready = 0 ORDER BY seq", {})

    def make_ready(
        self,
        job_id: str,
        generations: Sequence[Generation],
        notes: Sequence[str],
        cells: Sequence[PlannedCell] = (),
    ) -> None:
        """Lets a waiting job run: its files are here, its generations name them. One taken back stays as it is."""
        self._execute(
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
        """Ends a waiting job whose files cannot be had. One taken back stays as it is."""
        self._execute(
            """
            UPDATE jobs SET status = 'failed', error = :error, finished_at = :now
            WHERE id = :id AND status = 'in_queue' AND NOT ready
            """,
            {"id": job_id, "error": _json(error), "now": _now()},
        )

    def claim_next(self) -> str | None:
        """Takes the oldest waiting job that is ready out of the line, now in_progress; its id, or None without one."""
        rows = self._execute(
            """
            UPDATE jobs SET status = 'in_progress', started_at = :now
            WHERE seq = (SELECT min(seq) FROM jobs WHERE status = 'in_queue' AND ready = 1) AND status = 'in_queue'
            RETURNING id
            """,
            {"now": _now()},
        )
        return rows[0]["id"] if rows else None

    def request_cancel(self, job_id: str) -> None:
        """Cancels a waiting job at once, flags a running one for its worker, leaves a finished one as it is."""
        self._execute(
            """
            UPDATE jobs SET
                cancel_requested = 1,
                status = CASE status WHEN 'in_queue' THEN 'canceled' ELSE status END,
                finished_at = CASE status WHEN 'in_queue' THEN :now END
            WHERE id = :id AND status IN ('in_queue', 'in_progress')
            """,
            {"id": job_id, "now": _now()},
        )

    def cancel_requested(self, job_id: str) -> bool:
        """Whether somebody asked for this job's end."""
        rows = self._execute("SELECT 1 FROM jobs WHERE id = :id AND cancel_requested", {"id": job_id})
        return bool(rows)

    def begin_clip(self, job_id: str, file: str) -> None:
        """Notes the file, relative to the data folder, that a running job's next clip will be."""
        self._execute(
            "UPDATE jobs SET writing = :file WHERE id = :id AND status = 'in_progress'", {"id": job_id, "file": file}
        )

    def strays(self) -> tuple[str, ...]:
        """Files that were begun and never became a clip. Only for a process that alone holds the data folder."""
        rows = self._execute(
            "SELECT writing FROM jobs WHERE writing IS NOT NULL AND writing NOT IN (SELECT file FROM clips)", {}
        )
        return tuple(row["writing"] for row in rows)

    def forget_strays(self) -> None:
        """Says that the strays' files are gone."""
        self._execute("UPDATE jobs SET writing = NULL WHERE writing IS NOT NULL", {})

    def counts(self) -> dict[Status, int]:
        """How many jobs there are in each status."""
        rows = self._execute("SELECT status, count(*) AS jobs FROM jobs GROUP BY status", {})
        return {"in_queue": 0, "in_progress": 0, **dict.fromkeys(FINAL, 0)} | {
            row["status"]: row["jobs"] for row in rows
        }

    def add_clip(self, job_id: str, clip: ClipRecord) -> bool:
        """Adds a finished clip to a running job. False, and nothing added, if the job does not run any more."""
        rows = self._execute(
            """
            INSERT INTO clips (job_id, clip_index, width, height, num_frames, fps, seed, file, metadata, created_at)
            SELECT id, :index, :width, :height, :num_frames, :fps, :seed, :file, :metadata, :now
            FROM jobs WHERE id = :id AND status = 'in_progress'
            RETURNING clip_index
            """,
            {**vars(clip), "metadata": _json(dict(clip.metadata)), "id": job_id, "now": _now()},
        )
        return bool(rows)

    def finish(
        self, job_id: str, status: Literal["succeeded", "failed", "canceled"], error: Mapping[str, Any] | None = None
    ) -> Status | None:
        """Ends a running job; the status it got, or None if it was not running.

        A job whose cancel came before its end is canceled even if its last clip got done: the answer to the cancel
        has already said so.
        """
        rows = self._execute(
            """
            UPDATE jobs SET
                status = CASE WHEN :status = 'succeeded' AND cancel_requested THEN 'canceled' ELSE :status END,
                error = :error, finished_at = :now
            WHERE id = :id AND status = 'in_progress'
            RETURNING status
            """,
            {"id": job_id, "status": status, "error": None if error is None else _json(error), "now": _now()},
        )
        return rows[0]["status"] if rows else None

    def add_failure(self, job_id: str, index: int, error: Mapping[str, Any]) -> None:
        """Marks a running job's generation as one that could not be rendered; a job not running stays as it is."""
        self._execute(
            """
            UPDATE jobs SET failures = json_set(failures, :path, json(:error))
            WHERE id = :id AND status = 'in_progress'
            """,
            {"id": job_id, "path": f'$."{index}"', "error": _json(error)},
        )

    def retry(self, job_id: str) -> None:
        """Puts a failed or canceled job at the line's end, as new but with its clips; another stays as it is."""
        self._execute(
            """
            UPDATE jobs SET
                seq = (SELECT max(seq) + 1 FROM jobs), status = 'in_queue', attempts = 0, cancel_requested = 0,
                error = NULL, failures = '{}', started_at = NULL, finished_at = NULL
            WHERE id = :id AND status IN ('failed', 'canceled')
            """,
            {"id": job_id},
        )

    def put_back(self, job_id: str) -> None:
        """A clean stop: the running job waits again at its old place, no attempt counted; canceled if so asked."""
        self._execute(
            """
            UPDATE jobs SET
                status = CASE WHEN cancel_requested THEN 'canceled' ELSE 'in_queue' END,
                started_at = CASE WHEN cancel_requested THEN started_at END,
                finished_at = CASE WHEN cancel_requested THEN :now END
            WHERE id = :id AND status = 'in_progress'
            """,
            {"id": job_id, "now": _now()},
        )

    def recover(self, max_attempts: int = MAX_ATTEMPTS) -> dict[str, Status]:
        """What a new process does with jobs that the last one left running: the status each now has, by id.

        They wait again at their old place with their finished clips, one attempt more counted; failed after
        `max_attempts`. Only for a process that alone holds the data folder, before its worker starts.
        """
        times = {1: "once", 2: "twice", 3: "three times"}.get(max_attempts, f"{max_attempts} times")
        error = RenderFailed(
            f"The process ended {times} while running this. Try a smaller size, fewer frames or a lower memory mode.",
            attempts=max_attempts,
        )
        rows = self._execute(
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
            {"max_attempts": max_attempts, "error": _json(error.body()), "now": _now()},
        )
        return {row["id"]: row["status"] for row in rows}

    def _jobs(self, where: str, values: Mapping[str, Any], place: str = _FROM_FRONT) -> tuple[Job, ...]:
        with self._lock:  # both queries see the same moment
            rows = self._execute(
                f"SELECT *, CASE status WHEN 'in_queue' THEN {place} END AS position FROM jobs {where}", values
            )
            clips: dict[str, list[ClipRecord]] = {row["id"]: [] for row in rows}
            for clip in self._execute(
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
    )
