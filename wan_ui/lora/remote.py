"""LoRA files of the web and the hub: fetched whole or not at all, kept once by content; it knows no jobs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx2
import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    DryRunError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm.auto import tqdm

from wan_ui.errors import DiskFull, FetchFailed, HostError, LoraInvalid, LoraNotFound
from wan_ui.lora.header import read_header
from wan_ui.lora.safetensors_header import check_start
from wan_ui.media import disk
from wan_ui.media.fetch import Answer, Resolver, check_address, download, resolve_host
from wan_ui.text import one_line

HUB = "hf://"
WEB = ("http://", "https://")
MAX_BYTES = 8 << 30  # a rank-128 file for both 14B transformers has 2.4 GB
SECONDS = 60.0  # for the way to the first byte, and for each MiB
DISK_RESERVE = 1 << 30  # bytes left free after a fetch, for clips
TOKEN = "HF_TOKEN"

_TEXTS = frozenset({"prompt", "neg", "trigger_word"})
_START = 64  # bytes that tell a safetensors file from a page, a pickle, a pointer
_PAGES = ("text/html", "application/xhtml+xml")
_HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_HUB_SOURCE = re.compile(
    r"hf://(?P<repo>[\w.-]{1,96}/[\w.-]{1,96})/(?P<file>[^@\\]+\.safetensors)(?:@(?P<revision>[\w.+/-]{1,200}))?",
    re.IGNORECASE | re.ASCII,
)

OnBytes = Callable[[int, int], None]
"""Bytes here so far and in all (0: not known). Called several times a second, also while none come; it may raise."""


@dataclass(frozen=True)
class HubFile:
    """A file of the hub: `repo` is org/name, `file` its path in there, `revision` None for the main branch."""

    repo: str
    file: str
    revision: str | None


@dataclass(frozen=True)
class DownloadedFile:
    """A fetched file that is kept: what it was called, what it is, which version of its source, and since when."""

    name: str
    sha256: str
    size: int
    version: str
    fetched_at: str


@dataclass(frozen=True)
class _Arrived:
    path: Path
    name: str
    version: str


def is_remote(source: str) -> bool:
    """Whether a LoRA's source is an address: anything else is a path or an upload."""
    return source.lower().startswith((HUB, *WEB))


def check_source(source: str) -> None:
    """Raises LoraNotFound or FetchFailed for an address that names no file, before anything is asked of it."""
    if source.lower().startswith(HUB):
        hub_file(source)
    else:
        check_address(source)


def shown_name(source: str) -> str:
    """The file's name in an address, for a sentence: an address itself may hold a signature."""
    path = source.split("://", 1)[-1].split("?", 1)[0].split("#", 1)[0]
    return _name(unquote(path.rstrip("/").rsplit("/", 1)[-1]))


def without_queries(value: Any) -> Any:
    """A JSON-ready value with the addresses in it as others may see them: without query, fragment, name and password.

    A query often holds a token. What people write as text is left as it is.
    """
    if isinstance(value, Mapping):
        return {name: one if name in _TEXTS else without_queries(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_queries(one) for one in value]
    if not isinstance(value, str) or not value.lower().startswith(WEB):
        return value
    try:
        split = urlsplit(value)
    except ValueError:
        return ""
    return urlunsplit((split.scheme, split.netloc.rpartition("@")[2], split.path, "", ""))


def hub_file(source: str) -> HubFile:
    """`hf://org/name/path/to/file.safetensors[@revision]` in its parts. Raises LoraNotFound."""
    match = _HUB_SOURCE.fullmatch(source)
    parts = [] if match is None else f"{match['repo']}/{match['file']}/{match['revision'] or 'main'}".split("/")
    if match is None or any(part in ("", ".", "..") for part in parts):
        raise LoraNotFound(
            f"{one_line(source, 120)} names no file of the hub: write hf://org/name/path/to/file.safetensors, with "
            "@revision behind it for another than the main branch."
        )
    return HubFile(match["repo"], match["file"], match["revision"])


def file_address(url: str) -> str:
    """The address of the file itself: the hub's page about a file (`/blob/`) becomes the file (`/resolve/`)."""
    try:
        split = urlsplit(url.strip())
    except ValueError:
        return url  # no address at all: the fetch says so
    if (split.hostname or "").lower() not in (*_HUB_HOSTS, urlsplit(constants.ENDPOINT).hostname):
        return url
    return urlunsplit(split._replace(path=re.sub(r"^(/[^/]+/[^/]+)/blob/", r"\1/resolve/", split.path)))


def free_bytes(folder: Path) -> int:
    """What the disk of a folder has left."""
    return shutil.disk_usage(folder).free


class RemoteFiles:
    """Fetches addresses into `folder`, as `<sha256>.safetensors`, and finds them again after a restart.

    Safe to use from several threads. `allow_hosts`, `resolver` and `seconds` are as in media.fetch; `max_bytes`
    bounds a file, `free` says what the disk has left.
    """

    def __init__(
        self,
        folder: Path,
        *,
        allow_hosts: Sequence[str] = (),
        max_bytes: int = MAX_BYTES,
        seconds: float = SECONDS,
        free: Callable[[Path], int] = free_bytes,
        resolver: Resolver = resolve_host,
    ) -> None:
        self._folder = folder
        self._index = folder / "fetched"
        self._allow_hosts = tuple(allow_hosts)
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._free = free
        self._resolver = resolver
        self._index.mkdir(parents=True, exist_ok=True)

    def held(self, source: str) -> DownloadedFile | None:
        """What was last fetched from a source, if it is still here."""
        try:
            found = DownloadedFile(**json.loads(self._entry(source).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None  # the index is a convenience: what it does not tell is fetched again
        return found if self.path(found.sha256).is_file() else None

    def path(self, sha256: str) -> Path:
        """Where the bytes of a fetched file are."""
        return self._folder / f"{sha256}.safetensors"

    def sweep(self) -> None:
        """Removes what a killed process left half fetched. Only for a process that alone holds the folder."""
        disk.sweep(self._folder)
        disk.sweep(self._index)

    def fetch(self, source: str, on_bytes: OnBytes) -> tuple[str, ...]:
        """Makes the file of a source be here, as it is now at its source; sentences for the user.

        One that has not changed since it was fetched is not fetched again; one whose source does not answer is used
        as it was, and the sentences say so. Raises LoraNotFound, LoraInvalid, FetchFailed, DiskFull, HostError, and
        what `on_bytes` raises; then nothing is left behind.
        """
        check_source(source)
        held = self.held(source)
        with self._part() as part:
            try:
                if source.lower().startswith(HUB):
                    arrived = self._from_hub(hub_file(source), held, part, on_bytes)
                else:
                    arrived = self._from_web(source, held, part, on_bytes)
            except FetchFailed as error:
                if held is None:
                    raise
                return (f"{held.name} is used as it was fetched on {held.fetched_at[:10]}: {error.message}",)
            if arrived is not None:
                self._keep(source, arrived)
        return ()

    @contextmanager
    def _part(self) -> Iterator[Path]:
        """A folder for what is not whole yet."""
        part: Path | None = None
        try:
            part = Path(tempfile.mkdtemp(prefix=disk.PART_PREFIX, dir=self._folder))
            yield part
        except OSError as error:
            if disk.is_full(error):
                raise DiskFull("The disk filled up while the LoRA was fetched: make room and try again.") from error
            raise HostError(f"The LoRA cannot be stored ({error.strerror}): check the uploads folder.") from error
        finally:
            if part is not None:
                shutil.rmtree(part, ignore_errors=True)

    def _keep(self, source: str, arrived: _Arrived) -> None:
        read_header(arrived.path, arrived.name)
        with arrived.path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = arrived.path.stat().st_size
        if not self.path(sha256).is_file():
            disk.publish(arrived.path, self.path(sha256))
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        held = DownloadedFile(arrived.name, sha256, size, arrived.version, now)
        disk.save(self._entry(source), json.dumps(asdict(held)).encode())

    def _entry(self, source: str) -> Path:
        # By the address's hash: an address may hold a signature, which then stands in no file's name and no file.
        return self._index / f"{hashlib.sha256(source.encode('utf-8', 'surrogatepass')).hexdigest()}.json"

    def _need_room(self, size: int) -> None:
        free = self._free(self._folder)
        if size + DISK_RESERVE > free:
            raise DiskFull(
                f"The LoRA has {_megabytes(size)} and the disk {_megabytes(free)} left, of which "
                f"{_megabytes(DISK_RESERVE)} stay free for clips. Make room and try again.",
                needed=size,
                free=free,
            )

    def _from_web(self, source: str, held: DownloadedFile | None, part: Path, on_bytes: OnBytes) -> _Arrived | None:
        path = part / "file"
        start = bytearray()
        here = total = 0

        def begin(answer: Answer) -> None:
            nonlocal total
            if answer.content_type in _PAGES:
                raise LoraInvalid(
                    f"{answer.host} sent a web page, not a LoRA: a sign-in or overview page, perhaps. Give the address "
                    "of the file itself."
                )
            total = answer.size or 0
            self._need_room(total)
            on_bytes(0, total)

        with path.open("wb") as out:

            def write(piece: bytes) -> None:
                nonlocal here
                if len(start) < _START:
                    start.extend(piece[: _START - len(start)])
                    if len(start) >= _START:
                        check_start(bytes(start))
                out.write(piece)
                here += len(piece)
                on_bytes(here, total)

            try:
                answer = download(
                    file_address(source),
                    write,
                    max_bytes=self._max_bytes,
                    seconds=self._seconds,
                    begin=begin,
                    beat=lambda: on_bytes(here, total),
                    etag="" if held is None else held.version,
                    allow_hosts=self._allow_hosts,
                    resolver=self._resolver,
                )
            except FetchFailed as error:
                if error.details.get("status") not in (401, 403):
                    raise
                raise FetchFailed(
                    f"{error.details['host']} does not give this file without a sign-in. Name a file of the Hugging "
                    f"Face hub hf://org/name/file.safetensors, which uses {TOKEN}; others upload.",
                    **error.details,
                ) from error
        if answer is None:
            return None
        return _Arrived(path, _name(answer.name), answer.etag)

    def _from_hub(self, wanted: HubFile, held: DownloadedFile | None, part: Path, on_bytes: OnBytes) -> _Arrived | None:
        on_bytes(0, 0)
        # False: no token at all, rather than one that somebody once stored on this machine.
        common: dict[str, Any] = {"local_dir": part, "token": os.environ.get(TOKEN) or False}
        with _hub_errors(wanted):
            about = huggingface_hub.hf_hub_download(
                wanted.repo, wanted.file, revision=wanted.revision, dry_run=True, **common
            )
            if held is not None and held.version == about.commit_hash:
                return None
            total = about.file_size or 0
            if total > self._max_bytes:
                raise FetchFailed(f"{wanted.file} has {total} bytes; at most {self._max_bytes} are taken.")
            self._need_room(total)
            bar = _bar_class(lambda here: on_bytes(min(here, total), total))
            path = huggingface_hub.hf_hub_download(
                wanted.repo, wanted.file, revision=about.commit_hash, tqdm_class=bar, **common
            )
        on_bytes(total, total)  # whoever ended it meanwhile is heard even if the hub's own download passed it over
        return _Arrived(Path(path), _name(wanted.file), about.commit_hash)


def _name(name: str) -> str:
    return one_line(re.split(r"[/\\]", name)[-1], 200) or "lora.safetensors"


def _bar_class(heard: Callable[[int], None]) -> type[tqdm]:  # type: ignore[type-arg]
    class Bar(tqdm):  # type: ignore[type-arg]
        """A silent bar that passes on the bytes that are here. Of the two that some downloads have, the slower one."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["disable"] = True
            self._counts = not str(kwargs.get("desc", "")).endswith("downloading bytes")
            self._here = int(kwargs.get("initial") or 0)
            super().__init__(*args, **kwargs)

        def update(self, n: float | None = 1) -> bool | None:
            self._here += int(n or 0)
            if self._counts:
                heard(self._here)
            return super().update(n)

    return Bar


@contextmanager
def _hub_errors(wanted: HubFile) -> Iterator[None]:
    """What the hub's client raises, as ours, and never with the address or the token it was asked with."""
    try:
        yield
    except GatedRepoError as error:
        raise FetchFailed(
            f"{wanted.repo} is gated on the Hugging Face hub: accept its terms there and set {TOKEN}."
        ) from error
    except RevisionNotFoundError as error:
        raise FetchFailed(f"{wanted.repo} has no revision {wanted.revision} on the Hugging Face hub.") from error
    except RepositoryNotFoundError as error:
        raise FetchFailed(f"The Hugging Face hub has no public {wanted.repo}; set {TOKEN} if it is private.") from error
    except LocalEntryNotFoundError as error:
        raise FetchFailed("The Hugging Face hub does not answer. Try again once it can be reached.") from error
    except EntryNotFoundError as error:
        raise FetchFailed(f"{wanted.repo} on the Hugging Face hub has no file {one_line(wanted.file, 120)}.") from error
    except HFValidationError as error:
        raise FetchFailed(f"{wanted.repo} is no name that the Hugging Face hub could have.") from error
    except (HfHubHTTPError, httpx2.HTTPError, DryRunError, ConnectionError, TimeoutError) as error:
        raise FetchFailed("The Hugging Face hub does not answer. Try again once it can be reached.") from error
    except OSError as error:
        if error.errno is not None:
            raise  # this machine's
        raise FetchFailed(
            f"The download of {one_line(wanted.file, 120)} from the Hugging Face hub broke off."
        ) from error


def _megabytes(amount: int) -> str:
    return f"{amount / 1e9:.1f} GB" if amount >= 1e8 else f"{amount / 1e6:.1f} MB"
