"""The gallery: finished clips, newest first, listed, filtered, marked and deleted with all their files.

An entry is a clip of an ordinary request, or all clips of a comparison. Triggers of the database keep the entries equal
to the clips. A page costs one query whatever the filter, and a second one only if paging back reaches the first page.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
import threading
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Literal

from wan_ui.access import Access
from wan_ui.errors import HostError, InvalidRequest, StillRunning, VideoEncodingFailed, VideoNotFound
from wan_ui.job import FINAL, Job
from wan_ui.jobs.clip_writer import clip_files
from wan_ui.jobs.store import Store, load_generations, timestamp
from wan_ui.media import poster
from wan_ui.request import Generation

log = logging.getLogger(__name__)

PAGE = 24  # entries
LARGEST_PAGE = 100
Kind = Literal["video", "comparison"]
COMPARISON = -1  # the clip's number of an entry that is a comparison
SHA256 = re.compile(r"[0-9a-f]{64}")
CANCELED_HOURS = 24  # that a cancelled request without a clip keeps its text
AT_ONCE = 500  # clips deleted by one statement, which blocks the others

_ENTRY = re.compile(r"([0-9a-f]{32})(?:-([0-9]{1,9}))?")
_CURSOR = re.compile(r"([ba])([0-9]{1,18})")  # before or after an entry's number
_FINAL = "('succeeded', 'failed', 'canceled')"
_ENTRIES = """
    SELECT entry.seq, entry.job_id, entry.clip_index, entry.visitor, entry.model, entry.kept, entry.made_at,
        clips.clip_index AS shown, clips.width, clips.height, clips.num_frames, clips.fps, clips.seed, clips.file,
        json_extract(jobs.generations, '$[' || clips.clip_index || ']') AS generation,
        jobs.status, json_array_length(jobs.cells) AS cells, json_array_length(jobs.generations) AS videos,
        (SELECT count(*) FROM clips AS all_of WHERE all_of.job_id = entry.job_id) AS made,
        (SELECT json_group_array(json_object('name', name, 'sha256', sha256)) FROM entry_loras
         WHERE entry_loras.entry = entry.seq) AS loras
    FROM ({entries}) AS entry
    JOIN jobs ON jobs.id = entry.job_id
    JOIN clips ON clips.job_id = entry.job_id AND clips.clip_index = CASE entry.clip_index
        WHEN -1 THEN (SELECT min(first.clip_index) FROM clips AS first WHERE first.job_id = entry.job_id)
        ELSE entry.clip_index END
    ORDER BY entry.seq DESC
"""
_MAY_GO = f"""
    SELECT clips.job_id, clips.clip_index FROM entries
    JOIN jobs ON jobs.id = entries.job_id AND jobs.status IN {_FINAL}
    JOIN clips ON clips.job_id = entries.job_id AND entries.clip_index IN (clips.clip_index, -1)
"""


@dataclass(frozen=True)
class Scope:
    """Which entries are listed: all, those of browsers, or those of one `visitor`; `where` is the SQL condition."""

    where: str
    visitor: str | None = None


EVERYBODY = Scope("true")
BROWSERS = Scope("entries.visitor IS NOT NULL")


def scope_of(access: Access) -> Scope | None:
    """Which entries are listed for a caller; None: none."""
    if access.identity.owner:
        return EVERYBODY
    if access.shared:
        return BROWSERS
    if access.identity.visitor is None:
        return None
    return Scope("entries.visitor = :visitor", access.identity.visitor)


@dataclass(frozen=True)
class Filter:
    """Conditions on entries; None: any. `loras`: made with one of these, each a file's name or SHA-256.

    `words`: all of them occur in the prompt. `kind`: only single videos, or only comparisons. `oldest_first`: their
    order.
    """

    model: str | None = None
    loras: tuple[str, ...] = ()
    job: str | None = None
    words: str | None = None
    kept: bool = False
    kind: Kind | None = None
    oldest_first: bool = False


@dataclass(frozen=True)
class LoraFacts:
    """A LoRA file that clips were made with."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Entry:
    """An entry as it is listed; sizes in pixels. Of a comparison, the clip is its first.

    `index` is the clip's in its request, None for a comparison, of which `cells` are planned and `made` of its
    `videos` are finished. `seq` orders the entries. `final`: the request has come to its end.
    """

    id: str
    seq: int
    job_id: str
    index: int | None
    visitor: str | None
    model: str
    kept: bool
    made_at: str
    final: bool
    shown: int
    width: int
    height: int
    num_frames: int
    fps: int
    seed: int
    file: str
    generation: Generation
    cells: int
    videos: int
    made: int
    loras: tuple[LoraFacts, ...]


@dataclass(frozen=True)
class Page:
    """Entries, newest first, and the cursors of the next older and newer pages, None at the ends."""

    entries: tuple[Entry, ...]
    older: str | None
    newer: str | None


@dataclass(frozen=True)
class Choices:
    """The values that entries can be filtered by, with the number of entries of each."""

    entries: int
    kept: int
    models: tuple[tuple[str, int], ...]
    loras: tuple[tuple[LoraFacts, int], ...]


@dataclass(frozen=True)
class Retention:
    """When clips are deleted: after `days`, or when all of them have more than `size` bytes. None: never."""

    days: float | None = None
    size: int | None = None


NO_PAGE = Page((), None, None)
NO_CHOICES = Choices(0, 0, (), ())


class Gallery:
    """The entries of a store whose clips lie in `data_dir`.

    `forget` removes what else is stored about a clip, by its job's id and its index; it may raise OSError.
    Every method raises HostError when the database cannot be read or written.
    """

    def __init__(self, store: Store, data_dir: Path, forget: Callable[[str, int], None] | None = None) -> None:
        self._store = store
        self._data_dir = data_dir
        self._forget = forget
        self._purging = threading.Lock()
        store.add_function("holds_words", 2, _contains_words)

    # Reading

    def page(self, scope: Scope, wanted: Filter, cursor: str | None = None, limit: int = PAGE) -> Page:
        """A page of the newest (or oldest) entries, or of those next to the page that gave the cursor.

        Oldest first, pages only go on: `older` is the cursor of the next one. Raises InvalidRequest for an unknown
        cursor.
        """
        direction, number = _read_cursor(cursor)
        if wanted.oldest_first:
            candidates = self._entries(scope, wanted, "entries.seq > :number ORDER BY entries.seq", number, limit + 1)
            entries = candidates[::-1][:limit]
            return Page(entries, f"a{entries[-1].seq}" if len(candidates) > limit else None, None)
        if direction == "a":
            candidates = self._entries(scope, wanted, "entries.seq > :number ORDER BY entries.seq", number, limit + 1)
            if len(candidates) > limit:
                entries = candidates[-limit:]
                return Page(entries, _before(entries), _after(entries))
            direction, number = "", 0  # too few to fill a page: show the first one instead
        candidates = self._entries(
            scope,
            wanted,
            f"{'entries.seq < :number' if direction else 'true'} ORDER BY entries.seq DESC",
            number,
            limit + 1,
        )
        entries = candidates[:limit]
        older = _before(entries) if len(candidates) > limit else None
        return Page(entries, older, (_after(entries) if entries else f"a{number - 1}") if direction else None)

    def choices(self, scope: Scope) -> Choices:
        """The values to filter by. Two queries."""
        values = {"visitor": scope.visitor}
        models = self._store.rows(
            f"""
            SELECT model, count(*) AS entries, sum(kept) AS kept FROM entries WHERE {scope.where}
            GROUP BY model ORDER BY model
            """,
            values,
        )
        loras = self._store.rows(
            f"""
            SELECT max(entry_loras.name) AS name, entry_loras.sha256, count(DISTINCT entries.seq) AS entries
            FROM entry_loras JOIN entries ON entries.seq = entry_loras.entry WHERE {scope.where}
            GROUP BY CASE entry_loras.sha256 WHEN '' THEN entry_loras.name ELSE entry_loras.sha256 END
            ORDER BY 1, 2
            """,
            values,
        )
        return Choices(
            entries=sum(row["entries"] for row in models),
            kept=sum(row["kept"] for row in models),
            models=tuple((row["model"], row["entries"]) for row in models),
            loras=tuple((LoraFacts(row["name"], row["sha256"]), row["entries"]) for row in loras),
        )

    def entry(self, entry_id: str) -> Entry:
        """One entry: "<request id>-<clip's number>", or "<request id>" of a comparison. Raises VideoNotFound."""
        match = _ENTRY.fullmatch(entry_id)
        entries: tuple[Entry, ...] = ()
        if match is not None:
            index = COMPARISON if match[2] is None else int(match[2])
            rows = self._store.rows(
                _ENTRIES.format(entries="SELECT * FROM entries WHERE job_id = :job AND clip_index = :index"),
                {"job": match[1], "index": index},
            )
            entries = tuple(map(_entry, rows))
        if not entries:
            raise VideoNotFound("There is no such entry in the gallery, or it was deleted.")
        return entries[0]

    def of_clip(self, entry: Entry, job: Job, index: int) -> Entry:
        """An entry with another of its clips in front, for that clip's poster. Raises VideoNotFound."""
        for clip in job.clips:
            if clip.index == index and entry.index in (None, index):
                return replace(entry, file=clip.file, num_frames=clip.num_frames)
        raise VideoNotFound("This entry has no such video.")

    def poster(self, entry: Entry) -> Path | None:
        """The file of an entry's poster, None if it has none yet."""
        path = (self._data_dir / entry.file).with_suffix(poster.SUFFIX)
        return path if path.is_file() else None

    def make_poster(self, entry: Entry) -> Path:
        """Make the poster of a clip that was written before posters existed. Raises VideoNotFound."""
        clip = self._data_dir / entry.file
        path = clip.with_suffix(poster.SUFFIX)
        if not clip.is_file():
            raise VideoNotFound("The file of this video was deleted.")
        try:
            poster.of_clip(path, clip, entry.num_frames)
        except VideoEncodingFailed as error:
            raise VideoNotFound("The file of this video cannot be read.") from error
        except OSError as error:
            raise HostError(
                f"The poster of this video cannot be written ({error.strerror}). Check the disk."
            ) from error
        if not clip.is_file():  # deleted meanwhile, with its other files
            path.unlink(missing_ok=True)
            raise VideoNotFound("The file of this video was deleted.")
        return path

    # Writing

    def keep(self, entry_id: str, kept: bool) -> Entry:
        """Mark an entry as one that is never deleted automatically, or remove the mark. Raises VideoNotFound."""
        entry = self.entry(entry_id)
        self._store.rows(
            "UPDATE entries SET kept = :kept WHERE job_id = :job AND clip_index = :index",
            {"kept": kept, "job": entry.job_id, "index": COMPARISON if entry.index is None else entry.index},
        )
        return self.entry(entry_id)

    def delete(self, entry_id: str) -> None:
        """Delete an entry with all its files, and its job if no other clip of it is left.

        LoRA files and first frames stay, since other clips may have been made with them.
        Raises VideoNotFound, StillRunning, and HostError if a file cannot be removed: the entry is deleted all the
        same, and its files are tried again at the next start and at the end of each job.
        """
        entry = self.entry(entry_id)
        gone = self._store.rows(
            f"""
            DELETE FROM clips WHERE job_id = :job AND (clip_index = :index OR :index = {COMPARISON})
                AND EXISTS (SELECT 1 FROM jobs WHERE id = :job AND status IN {_FINAL})
            RETURNING clip_index
            """,
            {"job": entry.job_id, "index": COMPARISON if entry.index is None else entry.index},
        )
        if not gone and not entry.final:
            raise StillRunning(
                "The request of this video is still waiting or running: cancel it first, then delete the video."
            )
        left = self.purge()
        if left:
            raise HostError(
                f"The entry is deleted, but {left} of its files cannot be removed. Check the data folder; the "
                "server tries again automatically."
            )

    def is_request_without_clips(self, job_id: str) -> bool:
        """Whether this is the id of a request, ended or not, that has no clip: it is in no entry."""
        rows = self._store.rows(
            "SELECT 1 FROM jobs WHERE id = :job AND NOT EXISTS (SELECT 1 FROM clips WHERE job_id = :job)",
            {"job": job_id},
        )
        return bool(rows)

    def delete_request(self, job_id: str) -> None:
        """Delete a request that failed or was cancelled before its first clip. Raises StillRunning."""
        gone = self._store.rows(
            f"""
            DELETE FROM jobs WHERE id = :job AND status IN {_FINAL}
                AND NOT EXISTS (SELECT 1 FROM clips WHERE job_id = :job)
            RETURNING id
            """,
            {"job": job_id},
        )
        if not gone:
            raise StillRunning("This request is still waiting or running: cancel it first, then delete it.")

    def tidy(self, retention: Retention, now: datetime | None = None) -> None:
        """Delete entries that are older than may be kept or exceed the size, and the files of deleted clips.

        Cancelled requests without a clip go after CANCELED_HOURS. Entries that are marked, waiting or running are never
        deleted; by size neither is the newest one, which its sender may not have seen yet.
        """
        current = now or datetime.now(UTC)
        self._store.forget_canceled(timestamp(current - timedelta(hours=CANCELED_HOURS)))
        if retention.days is not None:
            self._delete_older(timestamp(current - timedelta(days=retention.days)))
        self.purge()
        if retention.size is not None:
            self._delete_above(retention.size)
            self.purge()

    def purge(self) -> int:
        """Remove the files of deleted clips, and return how many clips have files that could not be removed."""
        with self._purging:
            rows = self._store.rows("SELECT file, job_id, clip_index FROM doomed", {})
            removed = [row["file"] for row in rows if self._remove(row["file"], row["job_id"], row["clip_index"])]
            if removed:
                self._store.rows(
                    "DELETE FROM doomed WHERE file IN (SELECT value FROM json_each(:files))",
                    {"files": json.dumps(removed)},
                )
            return len(rows) - len(removed)

    def _entries(self, scope: Scope, wanted: Filter, position: str, number: int, limit: int) -> tuple[Entry, ...]:
        where = [scope.where]
        if wanted.model is not None:
            where.append("entries.model = :model")
        if wanted.job is not None:
            where.append("entries.job_id = :job")
        if wanted.kept:
            where.append("entries.kept")
        if wanted.kind is not None:
            where.append(f"entries.clip_index {'=' if wanted.kind == 'comparison' else '<>'} {COMPARISON}")
        hashes = [lora for lora in wanted.loras if SHA256.fullmatch(lora)]
        names = [lora for lora in wanted.loras if lora not in hashes]
        if wanted.loras:
            where.append(
                """entries.seq IN (
                    SELECT entry FROM entry_loras WHERE sha256 IN (SELECT value FROM json_each(:hashes))
                    UNION SELECT entry FROM entry_loras WHERE name IN (SELECT value FROM json_each(:names)))"""
            )
        if wanted.words and wanted.words.split():
            where.append(
                "holds_words(entries.prompt, :words)"
            )  # last: the slowest condition, for what the others leave
        query = f"SELECT * FROM entries WHERE {' AND '.join(where)} AND {position} LIMIT :limit"
        rows = self._store.rows(
            _ENTRIES.format(entries=query),
            {
                "visitor": scope.visitor,
                "model": wanted.model,
                "job": wanted.job,
                "hashes": json.dumps(hashes),
                "names": json.dumps(names),
                "words": wanted.words,
                "number": number,
                "limit": limit,
            },
        )
        return tuple(map(_entry, rows))

    def _delete_older(self, oldest: str) -> None:
        while self._store.rows(
            f"""
            DELETE FROM clips WHERE (job_id, clip_index) IN
                ({_MAY_GO} WHERE NOT entries.kept AND entries.made_at < :oldest LIMIT {AT_ONCE})
            RETURNING clip_index
            """,
            {"oldest": oldest},
        ):
            self.purge()
        # Jobs that failed before their first clip hold a prompt too.
        self._store.rows(
            f"""
            DELETE FROM jobs WHERE status IN {_FINAL} AND finished_at < :oldest
                AND NOT EXISTS (SELECT 1 FROM clips WHERE clips.job_id = jobs.id)
            """,
            {"oldest": oldest},
        )

    def _delete_above(self, most: int) -> None:
        sizes = _sizes(self._data_dir)
        over = sum(sizes.values()) - most
        if over <= 0:
            return
        deleted: list[int] = []
        for row in self._store.rows(
            f"""
            SELECT entries.seq, json_group_array(json_array(clips.file, clips.clip_index)) AS files, entries.job_id
            FROM entries
            JOIN jobs ON jobs.id = entries.job_id AND jobs.status IN {_FINAL}
            JOIN clips ON clips.job_id = entries.job_id AND entries.clip_index IN (clips.clip_index, -1)
            WHERE NOT entries.kept AND entries.seq < (SELECT max(seq) FROM entries)
            GROUP BY entries.seq ORDER BY entries.seq
            """,
            {},
        ):
            if over <= 0:
                break
            deleted.append(row["seq"])
            for file, index in json.loads(row["files"]):
                over -= sizes.get(Path(file).stem, 0) + sizes.get(f"{row['job_id']}-{index}", 0)
        for first in range(0, len(deleted), AT_ONCE):
            self._store.rows(
                f"""
                DELETE FROM clips WHERE (job_id, clip_index) IN
                    ({_MAY_GO} WHERE NOT entries.kept AND entries.seq IN (SELECT value FROM json_each(:deleted)))
                """,
                {"deleted": json.dumps(deleted[first : first + AT_ONCE])},
            )

    def _remove(self, file: str, job_id: str, index: int) -> bool:
        clip = self._data_dir / file
        try:
            for path in clip_files(clip):
                path.unlink(missing_ok=True)
            if self._forget is not None:
                self._forget(job_id, index)
        except OSError as error:
            log.warning(
                "the files of a deleted clip cannot be removed", extra={"request_id": job_id, "reason": error.strerror}
            )
            return False
        return True


def _sizes(data_dir: Path) -> dict[str, int]:
    """Bytes by clip: of its files by their stem, of its cached comparisons by "<job id>-<index>"."""
    sizes: dict[str, int] = {}

    def add(name: str, size: int) -> None:
        sizes[name] = sizes.get(name, 0) + size

    for entry in _listed(data_dir / "clips"):
        add(Path(entry.name).stem, _size(entry))
    for entry in _listed(data_dir / "compared"):
        for file in _listed(Path(entry.path)):
            add("-".join(entry.name.split("-")[:2]), _size(file))
    return sizes


def _listed(folder: Path) -> Iterable[os.DirEntry[str]]:
    try:
        return list(os.scandir(folder))
    except OSError:
        return ()  # missing, or not a folder


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except OSError:
        return 0  # deleted since it was listed


def _before(entries: Sequence[Entry]) -> str | None:
    return f"b{entries[-1].seq}" if entries else None


def _after(entries: Sequence[Entry]) -> str | None:
    return f"a{entries[0].seq}" if entries else None


def _read_cursor(cursor: str | None) -> tuple[str, int]:
    if not cursor:
        return "", 0
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise InvalidRequest(
            "The cursor is not one that a page of the gallery returned.",
            fields=[{"loc": "query.cursor", "msg": "must be `older` or `newer` of a page"}],
        )
    return match[1], int(match[2])


def _entry(row: sqlite3.Row) -> Entry:
    index = None if row["clip_index"] == COMPARISON else row["clip_index"]
    (generation,) = load_generations(f"[{row['generation']}]")
    return Entry(
        id=row["job_id"] if index is None else f"{row['job_id']}-{index}",
        seq=row["seq"],
        job_id=row["job_id"],
        index=index,
        visitor=row["visitor"],
        model=row["model"],
        kept=bool(row["kept"]),
        made_at=row["made_at"],
        final=row["status"] in FINAL,
        shown=row["shown"],
        width=row["width"],
        height=row["height"],
        num_frames=row["num_frames"],
        fps=row["fps"],
        seed=row["seed"],
        file=row["file"],
        generation=generation,
        cells=row["cells"],
        videos=row["videos"],
        made=row["made"],
        loras=tuple(LoraFacts(lora["name"], lora["sha256"]) for lora in json.loads(row["loras"])),
    )


def _fold(text: str) -> str:
    """Normalises a text for searching: case, width and composition of characters are ignored."""
    return unicodedata.normalize("NFKC", text).casefold()


@lru_cache(maxsize=64)
def _words(text: str) -> tuple[str, ...]:
    return tuple(_fold(text).split())


def _contains_words(prompt: str, words: str) -> bool:
    text = _fold(prompt)
    return all(word in text for word in _words(words))
