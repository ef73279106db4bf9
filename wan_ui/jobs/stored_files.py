"""The files that visitors have sent: listed and deleted for their owner, and found when nothing refers to them."""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from wan_ui.errors import HostError, StillRunning, UploadNotFound
from wan_ui.files import bytes_in
from wan_ui.jobs import file_records
from wan_ui.media.image import PIXELS_SUFFIX

if TYPE_CHECKING:
    from wan_ui.access import Access, FileKind
    from wan_ui.jobs.store import Store
    from wan_ui.lora.library import Library
    from wan_ui.trainer.imported_jobs import ImportedJobs

log = logging.getLogger(__name__)

Kind = Literal["lora", "image", "job"]
GRADIO_SECONDS = 24 * 3600.0  # that a file which the page sent stays in Gradio's folder: what uses it has copied it
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class StoredFile:
    """An uploaded LoRA, a first frame or an imported training job, with its size in bytes."""

    kind: Kind
    id: str
    name: str
    size: int


@dataclass(frozen=True)
class Leftover:
    """A file that nothing refers to, relative to the data folder, its size in bytes and why it may go."""

    path: Path
    size: int
    reason: str


class StoredFiles:
    """Deletes what visitors have sent, for whoever sent it and for the operator.

    A file that several browsers sent stays until the last of them has deleted it. What a waiting or running request
    uses is not deleted.
    """

    def __init__(self, store: Store, library: Library, imported_jobs: ImportedJobs, data_dir: Path) -> None:
        self._store = store
        self._library = library
        self._imported_jobs = imported_jobs
        self._data_dir = data_dir

    def listing(self, access: Access) -> tuple[StoredFile, ...]:
        """What the caller has sent; for the operator everything."""
        return tuple(each for each in self._all() if self._is_of(each.kind, each.id, access))

    def delete(self, kind: Kind, file_id: str, access: Access) -> None:
        """Delete a file. Raises UploadNotFound, StillRunning, and HostError if it cannot be removed."""
        if not any((each.kind, each.id) == (kind, file_id) for each in self._all()):
            raise _missing()
        if not self._is_of(kind, file_id, access):
            raise _missing()
        if file_records.is_waited_for(self._store, file_id):
            raise StillRunning("A waiting or running request uses this file: cancel it first, then delete the file.")
        holder = None if access.identity.owner else access.identity.visitor
        if file_records.forget_owner(self._store, holder, _owned_as(kind), file_id):
            return  # another browser sent it too
        try:
            if kind == "lora":
                self._library.delete_upload(file_id)
            elif kind == "image":
                for path in _image_files(self._data_dir, file_id):
                    path.unlink(missing_ok=True)
            else:
                for upload_id in self._imported_jobs.delete(file_id):
                    self._delete_quietly(upload_id, access)
        except OSError as error:
            raise HostError(f"The file cannot be removed ({error.strerror}). Check the data folder.") from error
        log.info("deleted", extra={"kind": kind})

    def _delete_quietly(self, upload_id: str, access: Access) -> None:
        """Deletes a checkpoint that came with a training job, unless somebody else or a request still needs it."""
        try:
            self.delete("lora", upload_id, access)
        except (UploadNotFound, StillRunning):
            return

    def _is_of(self, kind: Kind, file_id: str, access: Access) -> bool:
        if access.identity.owner:
            return True
        visitor, owned_as = access.identity.visitor, _owned_as(kind)
        if visitor is None:  # a program: by the id of 128 random bits, as for its requests
            return kind != "image" and self._store.is_available_to(None, owned_as, file_id)
        return self._store.is_owner(visitor, owned_as, file_id)

    def _all(self) -> Iterator[StoredFile]:
        for upload in self._library.uploads():
            yield StoredFile("lora", upload.id, upload.name, upload.size)
        for path in _files(self._data_dir / "images"):
            if _SHA256.fullmatch(path.name):
                yield StoredFile("image", path.name, "", _size(path))
        for job_id, origin, size in self._imported_jobs.listing():
            yield StoredFile("job", job_id, origin, size)


def leftovers(store: Store, data_dir: Path, older_than: float) -> list[Leftover]:
    """The files that no row of the database and no browser refers to, and that are older than so many seconds.

    Reads the database and the folders; removes nothing.
    """
    lost = _old(data_dir, _unlisted(store, data_dir), older_than, "a video without a row in the database")
    return lost + expired(store, data_dir, older_than)


def expired(
    store: Store, data_dir: Path, older_than: float | None, published: frozenset[str] = frozenset()
) -> list[Leftover]:
    """As `leftovers`, without videos, which a database that was put back may still list.

    Without `older_than`, only what the page has sent and what was copied where it is used. `published` are the names
    of folders that are part of the page.
    """
    sent = [path for path in _folders(data_dir / "gradio") if path.name not in published]
    found = _old(data_dir, sent, GRADIO_SECONDS, "a file that the page sent, copied where it is used")
    if older_than is None:
        return found
    texts = file_records.request_texts(store)

    def is_named(file_id: str) -> bool:
        return any(file_id in text for text in texts)

    images = [
        path
        for path in _files(data_dir / "images")
        if not file_records.is_held(store, "image", path.name[:64]) and not is_named(path.name[:64])
    ]
    trainer = data_dir / "trainer"
    links = {_text(path) for path in _files(trainer / "links")}
    samples = [path for path in _files(trainer / "previews") if path.name not in links and not is_named(path.name)]
    jobs = {path.name for path in _folders(trainer) if _ID.fullmatch(path.name)}
    thumbnails = [path for path in _files(trainer / "thumbnails") if path.name[:32] not in jobs]
    found += _old(data_dir, images, older_than, "a first frame that belongs to nobody")
    found += _old(data_dir, samples, older_than, "a training sample that no video is compared with")
    return found + _old(data_dir, thumbnails, older_than, "a thumbnail of a deleted training job")


def remove_leftovers(data_dir: Path, found: Iterable[Leftover]) -> int:
    """Removes these files and returns how many could not be removed, which the log names."""
    left = 0
    for leftover in found:
        path = data_dir / leftover.path
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            left += 1
            log.warning("a file that nothing refers to cannot be removed", extra={"reason": error.strerror})
    return left


def _old(data_dir: Path, paths: Iterable[Path], seconds: float, reason: str) -> list[Leftover]:
    now = time.time()
    return [
        Leftover(path.relative_to(data_dir), _size(path), reason) for path in paths if now - _changed(path) >= seconds
    ]


def unlisted_clips(store: Store, data_dir: Path) -> tuple[str, ...]:
    """The names of the videos that the database has no row for."""
    return tuple(path.name for path in _unlisted(store, data_dir) if path.suffix == ".mp4")


def _unlisted(store: Store, data_dir: Path) -> list[Path]:
    listed = file_records.clip_files(store)
    return [path for path in _files(data_dir / "clips") if f"clips/{path.stem}.mp4" not in listed]


def _owned_as(kind: Kind) -> FileKind:
    return "lora" if kind == "lora" else "image"


def _image_files(data_dir: Path, sha256: str) -> tuple[Path, Path]:
    path = data_dir / "images" / sha256
    return path, path.with_name(f"{sha256}{PIXELS_SUFFIX}")


def _missing() -> UploadNotFound:
    return UploadNotFound("There is no such file that is yours, or it was deleted.")


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())
    except OSError:
        return []  # missing, or not a folder


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return []  # missing, or not a folder


def _size(path: Path) -> int:
    try:
        if path.is_dir():
            return bytes_in(path)
        return path.stat().st_size
    except OSError:
        return 0  # deleted since it was listed


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()  # deleted since it was listed


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace")
    except OSError:
        return ""  # deleted since it was listed
