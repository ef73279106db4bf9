"""Finished clips, newest first: found, kept, deleted with all their files, and let go of; it knows no door or page.

An entry is a clip of an ordinary request, or all clips of a comparison. The store's triggers keep the entries as the
clips are. A page of them costs one query, whatever is asked for, and another only where a turn back reaches the first.
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
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

from wan_ui.access import Access
from wan_ui.errors import HostError, InvalidRequest, StillRunning, VideoEncodingFailed, VideoNotFound
from wan_ui.jobs.sample_comparisons import KEPT
from wan_ui.jobs.store import FINAL, Store, load_generations
from wan_ui.media import poster
from wan_ui.request import Generation

log = logging.getLogger(__name__)

PAGE = 24  # entries
LARGEST_PAGE = 100
COMPARISON = -1  # the clip's number of an entry that is a comparison
SHA256 = re.compile(r"[0-9a-f]{64}")
AT_ONCE = 500  # clips deleted by one statement, which holds up the others

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
    """Whose entries are looked at: every one, those of browsers, or those of one `visitor`."""

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
    """What entries are wanted; None: any. `lora`: a file's name or SHA-256. `words`: all of them in the prompt."""

    model: str | None = None
    lora: str | None = None
    job: str | None = None
    words: str | None = None
    kept: bool = False


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
    """Entries, newest first, and the cursors of the pages beside it; None where there is none."""

    entries: tuple[Entry, ...]
    older: str | None
    newer: str | None


@dataclass(frozen=True)
class Choices:
    """What entries can be filtered by, with how many there are of each."""

    entries: int
    kept: int
    models: tuple[tuple[str, int], ...]
    loras: tuple[tuple[LoraFacts, int], ...]


@dataclass(frozen=True)
class Retention:
    """How long clips stay: `days`, or as long as all of them have at most `size` bytes. None: for ever."""

    days: float | None = None
    size: int | None = None


NO_PAGE = Page((), None, None)
NO_CHOICES = Choices(0, 0, (), ())


def _nothing_more(job_id: str, index: int) -> None:
    """Where nobody keeps anything else of a clip."""


class Gallery:
    """The entries of a store whose clips lie in `data_dir`.

    `forget` removes what others keep of a clip, by its request's id and its index; it may raise OSError.
    Every method raises HostError when the list of jobs cannot be read or written.
    """

    def __init__(self, store: Store, data_dir: Path, forget: Callable[[str, int], None] = _nothing_more) -> None:
        self._store = store
        self._data_dir = data_dir
        self._forget = forget
        self._purging = threading.Lock()
        store.add_function("holds_words", 2, _holds)

    # Reading

    def page(self, scope: Scope, wanted: Filter, cursor: str | None = None, limit: int = PAGE) -> Page:
        """A page of the newest entries, or of those beside the page that gave the cursor.

        Raises InvalidRequest for a cursor that no page gave.
        """
        way, number = _read_cursor(cursor)
        if way == "a":
            found = self._entries(scope, wanted, "entries.seq > :number ORDER BY entries.seq", number, limit + 1)
            if len(found) > limit:
                entries = found[-limit:]
                return Page(entries, _before(entries), _after(entries))
            way, number = "", 0  # so few that they do not fill a page: the first one has them
        found = self._entries(
            scope,
            wanted,
            f"{'entries.seq < :number' if way else 'true'} ORDER BY entries.seq DESC",
            number,
            limit + 1,
        )
        entries = found[:limit]
        older = _before(entries) if len(found) > limit else None
        return Page(entries, older, (_after(entries) if entries else f"a{number - 1}") if way else None)

    def choices(self, scope: Scope) -> Choices:
        """What there is to filter by. Two queries."""
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
        found: tuple[Entry, ...] = ()
        if match is not None:
            index = COMPARISON if match[2] is None else int(match[2])
            rows = self._store.rows(
                _ENTRIES.format(entries="SELECT * FROM entries WHERE job_id = :job AND clip_index = :index"),
                {"job": match[1], "index": index},
            )
            found = tuple(map(_entry, rows))
        if not found:
            raise VideoNotFound("There is no such entry in the gallery, or not any more.")
        return found[0]

    def poster(self, entry: Entry) -> Path | None:
        """The file of an entry's poster, None where it is still to be made."""
        path = (self._data_dir / entry.file).with_suffix(poster.SUFFIX)
        return path if path.is_file() else None

    def make_poster(self, entry: Entry) -> Path:
        """Makes the poster of a clip from before there were any. Raises VideoNotFound."""
        clip = self._data_dir / entry.file
        path = clip.with_suffix(poster.SUFFIX)
        if not clip.is_file():
            raise VideoNotFound("The file of this video is gone.")
        try:
            poster.of_clip(path, clip, entry.num_frames)
        except VideoEncodingFailed as error:
            raise VideoNotFound("The file of this video cannot be read.") from error
        except OSError as error:
            raise HostError(f"The still of this video cannot be kept ({error.strerror}). Check the disk.") from error
        if not clip.is_file():  # deleted meanwhile, and its poster with it
            path.unlink(missing_ok=True)
            raise VideoNotFound("The file of this video is gone.")
        return path

    # Writing

    def keep(self, entry_id: str, kept: bool) -> Entry:
        """Marks an entry as one that is never let go of by itself, or not any more. Raises VideoNotFound."""
        entry = self.entry(entry_id)
        self._store.rows(
            "UPDATE entries SET kept = :kept WHERE job_id = :job AND clip_index = :index",
            {"kept": kept, "job": entry.job_id, "index": COMPARISON if entry.index is None else entry.index},
        )
        return self.entry(entry_id)

    def delete(self, entry_id: str) -> None:
        """Deletes an entry with every file that belongs to it, and its request when nothing else is left of that.

        LoRA files and first frames stay: other clips may have been made with them.
        Raises VideoNotFound, StillRunning, and HostError where a file cannot be removed; it is gone from the list then,
        and the next start or the end of the next job tries its files again.
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
            raise StillRunning("The request of this video still waits or runs: cancel it first, then delete.")
        left = self.purge()
        if left:
            raise HostError(
                f"It is deleted, but {left} of its files cannot be removed. Check the data folder; the server tries "
                "again by itself."
            )

    def tidy(self, retention: Retention, now: datetime | None = None) -> None:
        """Lets go of what is older, or more, than may stay, and removes the files of what was deleted.

        Never of what is kept, waits or runs; by size never of the newest, which nobody may have seen yet.
        """
        if retention.days is not None:
            oldest = (now or datetime.now(UTC)) - timedelta(days=retention.days)
            self._let_go_before(oldest.isoformat(timespec="milliseconds").replace("+00:00", "Z"))
        self.purge()
        if retention.size is not None:
            self._let_go_above(retention.size)
            self.purge()

    def purge(self) -> int:
        """Removes the files of deleted clips; how many of these clips have files that could not be removed."""
        with self._purging:
            rows = self._store.rows("SELECT file, job_id, clip_index FROM doomed", {})
            removed = [row["file"] for row in rows if self._remove(row["file"], row["job_id"], row["clip_index"])]
            if removed:
                self._store.rows(
                    "DELETE FROM doomed WHERE file IN (SELECT value FROM json_each(:files))",
                    {"files": json.dumps(removed)},
                )
            return len(rows) - len(removed)

    def _entries(self, scope: Scope, wanted: Filter, place: str, number: int, limit: int) -> tuple[Entry, ...]:
        where = [scope.where]
        if wanted.model is not None:
            where.append("entries.model = :model")
        if wanted.job is not None:
            where.append("entries.job_id = :job")
        if wanted.kept:
            where.append("entries.kept")
        if wanted.lora is not None:
            column = "sha256" if SHA256.fullmatch(wanted.lora) else "name"
            where.append(f"entries.seq IN (SELECT entry FROM entry_loras WHERE {column} = :lora)")
        if wanted.words and wanted.words.split():
            where.append("holds_words(entries.prompt, :words)")  # last: it is asked of what the others leave
        chosen = f"SELECT * FROM entries WHERE {' AND '.join(where)} AND {place} LIMIT :limit"
        rows = self._store.rows(
            _ENTRIES.format(entries=chosen),
            {
                "visitor": scope.visitor,
                "model": wanted.model,
                "job": wanted.job,
                "lora": wanted.lora,
                "words": wanted.words,
                "number": number,
                "limit": limit,
            },
        )
        return tuple(map(_entry, rows))

    def _let_go_before(self, oldest: str) -> None:
        while self._store.rows(
            f"""
            DELETE FROM clips WHERE (job_id, clip_index) IN
                ({_MAY_GO} WHERE NOT entries.kept AND entries.made_at < :oldest LIMIT {AT_ONCE})
            RETURNING clip_index
            """,
            {"oldest": oldest},
        ):
            self.purge()
        # Requests that failed before their first clip hold a prompt too.
        self._store.rows(
            f"""
            DELETE FROM jobs WHERE status IN {_FINAL} AND finished_at < :oldest
                AND NOT EXISTS (SELECT 1 FROM clips WHERE clips.job_id = jobs.id)
            """,
            {"oldest": oldest},
        )

    def _let_go_above(self, most: int) -> None:
        sizes = _sizes(self._data_dir)
        over = sum(sizes.values()) - most
        if over <= 0:
            return
        going: list[int] = []
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
            going.append(row["seq"])
            for file, index in json.loads(row["files"]):
                over -= sizes.get(Path(file).stem, 0) + sizes.get(f"{row['job_id']}-{index}", 0)
        for first in range(0, len(going), AT_ONCE):
            self._store.rows(
                f"""
                DELETE FROM clips WHERE (job_id, clip_index) IN
                    ({_MAY_GO} WHERE NOT entries.kept AND entries.seq IN (SELECT value FROM json_each(:going)))
                """,
                {"going": json.dumps(going[first : first + AT_ONCE])},
            )

    def _remove(self, file: str, job_id: str, index: int) -> bool:
        clip = self._data_dir / file
        try:
            for path in (clip, clip.with_suffix(KEPT), clip.with_suffix(poster.SUFFIX)):
                path.unlink(missing_ok=True)
            self._forget(job_id, index)
        except OSError as error:
            log.warning(
                "the files of a deleted clip cannot be removed", extra={"request_id": job_id, "reason": error.strerror}
            )
            return False
        return True


def _sizes(data_dir: Path) -> dict[str, int]:
    """Bytes by clip: of its files by their stem, of what it was compared with by request and index."""
    found: dict[str, int] = {}

    def add(name: str, size: int) -> None:
        found[name] = found.get(name, 0) + size

    for entry in _listed(data_dir / "clips"):
        add(Path(entry.name).stem, _size(entry))
    for entry in _listed(data_dir / "compared"):
        for file in _listed(Path(entry.path)):
            add("-".join(entry.name.split("-")[:2]), _size(file))
    return found


def _listed(folder: Path) -> Iterable[os.DirEntry[str]]:
    try:
        return list(os.scandir(folder))
    except OSError:
        return ()  # not there, or no folder


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except OSError:
        return 0  # gone since it was listed


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
            "This is no cursor that a page of the gallery gave.",
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
        loras=tuple(LoraFacts(one["name"], one["sha256"]) for one in json.loads(row["loras"])),
    )


def _fold(text: str) -> str:
    """A text to be searched: case, width and composition do not count."""
    return unicodedata.normalize("NFKC", text).casefold()


@lru_cache(maxsize=64)
def _words(text: str) -> tuple[str, ...]:
    return tuple(_fold(text).split())


def _holds(prompt: str, words: str) -> bool:
    text = _fold(prompt)
    return all(word in text for word in _words(words))
