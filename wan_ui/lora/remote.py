"""LoRA files downloaded from web addresses and the hub: whole or not at all, stored once by content."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from wan_ui.errors import DiskFull, FetchFailed, HostError, LoraInvalid
from wan_ui.files import PART_PREFIX, disk_full_mapped, free_bytes, publish_file, remove_parts, write_file
from wan_ui.hub_errors import TOKEN
from wan_ui.lora.header import read_header
from wan_ui.lora.hub import SCHEME, OnBytes, download_hub_file, file_address, hub_file
from wan_ui.lora.safetensors_header import check_start
from wan_ui.media.fetch import Answer, DownloadLimits, Resolver, check_address, download, resolve_host
from wan_ui.text import gigabytes, one_line

WEB = ("http://", "https://")
MAX_BYTES = 8 << 30  # a rank-128 file for both 14B transformers has 2.4 GB
SECONDS = 60.0  # until the first byte, and for each MiB
DISK_RESERVE = 1 << 30  # bytes that a download leaves free, for videos

_TEXTS = frozenset({"prompt", "neg", "trigger_word"})
_START = 64  # bytes that tell a safetensors file from a page, a pickle, a pointer
_PAGES = ("text/html", "application/xhtml+xml")


@dataclass(frozen=True)
class DownloadedFile:
    """A stored file: its original name, its content, which version of its source it is, and since when (UTC).

    `private`: it was downloaded with a request's own token, so others must be able to download it to use it. `gated`:
    it was downloaded with this machine's token, so guests who may not use that one must be able to, too.
    """

    name: str
    sha256: str
    size: int
    version: str
    fetched_at: str
    private: bool = False
    gated: bool = False


@dataclass(frozen=True)
class _Received:
    path: Path
    name: str
    version: str


def is_remote(source: str) -> bool:
    """Whether a LoRA's source is an address: anything else is a path or an upload."""
    return source.lower().startswith((SCHEME, *WEB))


def check_source(source: str) -> None:
    """Raises LoraNotFound or FetchFailed for an address that cannot name a file, before any connection is made."""
    if source.lower().startswith(SCHEME):
        hub_file(source)
    else:
        check_address(source)


def shown_name(source: str) -> str:
    """The file's name in an address, for messages: an address itself may hold a signature."""
    path = source.split("://", 1)[-1].split("?", 1)[0].split("#", 1)[0]
    return _name(unquote(path.rstrip("/").rsplit("/", 1)[-1]))


def without_queries(value: Any) -> Any:
    """A JSON-ready value whose addresses have no query, fragment, user name and password, for other people.

    A query often holds a token. What people write as text is left as it is.
    """
    if isinstance(value, Mapping):
        return {name: item if name in _TEXTS else without_queries(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_queries(item) for item in value]
    if not isinstance(value, str) or not value.lower().startswith(WEB):
        return value
    try:
        split = urlsplit(value)
    except ValueError:
        return ""
    return urlunsplit((split.scheme, split.netloc.rpartition("@")[2], split.path, "", ""))


class RemoteFiles:
    """Downloads addresses into `folder`, as `<sha256>.safetensors`, and finds them again after a restart.

    Safe to use from several threads. `allow_hosts`, `resolver` and `seconds` are as in media.fetch; `max_bytes`
    bounds a file, `free` returns the bytes that are free on a folder's disk.
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

    def downloaded(self, source: str) -> DownloadedFile | None:
        """The latest download of a source, if its file is still stored."""
        try:
            file = DownloadedFile(**json.loads(self._entry(source).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None  # the index is a convenience: what it does not hold is downloaded again
        return file if self.path(file.sha256).is_file() else None

    def path(self, sha256: str) -> Path:
        """Where the bytes of a downloaded file are."""
        return self._folder / f"{sha256}.safetensors"

    def sweep(self) -> None:
        """Removes unfinished downloads of a killed process. Only for a process that owns the folder."""
        remove_parts(self._folder)
        remove_parts(self._index)

    def fetch(self, source: str, on_bytes: OnBytes, token: str | None = None) -> tuple[str, ...]:
        """Downloads the file of a source, unless the stored one is still current; returns sentences for the user.

        `token` is sent to the hub only, and not stored; NO_TOKEN: not even this machine's own. Where the source does
        not answer, a stored file is used, unless it is another's, and the sentences say so. Raises LoraNotFound,
        LoraInvalid, FetchFailed, DiskFull, HostError, and what `on_bytes` raises; then nothing is left behind.
        """
        check_source(source)
        stored = self.downloaded(source)
        gated = token is None and source.lower().startswith(SCHEME) and bool(os.environ.get(TOKEN))
        with self._part_folder() as folder:
            try:
                if source.lower().startswith(SCHEME):
                    received = self._from_hub(source, stored, folder, on_bytes, token)
                else:
                    received = self._from_web(source, stored, folder, on_bytes)
            except FetchFailed as error:
                if stored is None or stored.private or (stored.gated and token is not None):
                    raise
                return (f"The copy of {stored.name} downloaded on {stored.fetched_at[:10]} is used: {error.message}",)
            if received is not None:
                self._store(source, received, bool(token), gated)
            elif stored is not None and not token and (stored.private or (stored.gated and not gated)):
                self._write_entry(source, replace(stored, private=False, gated=gated))
        return ()

    @contextmanager
    def _part_folder(self) -> Iterator[Path]:
        """A folder for what is not whole yet."""
        folder: Path | None = None
        try:
            with disk_full_mapped("the LoRA"):
                folder = Path(tempfile.mkdtemp(prefix=PART_PREFIX, dir=self._folder))
                yield folder
        except OSError as error:
            raise HostError(f"The LoRA cannot be stored ({error.strerror}): check the uploads folder.") from error
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)

    def _store(self, source: str, received: _Received, private: bool, gated: bool) -> None:
        read_header(received.path, received.name)
        with received.path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = received.path.stat().st_size
        if not self.path(sha256).is_file():
            publish_file(received.path, self.path(sha256))
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        self._write_entry(source, DownloadedFile(received.name, sha256, size, received.version, now, private, gated))

    def _write_entry(self, source: str, stored: DownloadedFile) -> None:
        write_file(self._entry(source), json.dumps(asdict(stored)).encode())

    def _entry(self, source: str) -> Path:
        # By the address's hash: an address may hold a signature, which must not end up on the disk.
        return self._index / f"{hashlib.sha256(source.encode('utf-8', 'surrogatepass')).hexdigest()}.json"

    def _check_space(self, size: int) -> None:
        free = self._free(self._folder)
        if size + DISK_RESERVE > free:
            raise DiskFull(
                f"The LoRA has {gigabytes(size)} and the disk {gigabytes(free)} left, of which "
                f"{gigabytes(DISK_RESERVE)} stay free for videos. Free some disk space and try again.",
                needed=size,
                free=free,
            )

    def _from_web(
        self, source: str, stored: DownloadedFile | None, folder: Path, on_bytes: OnBytes
    ) -> _Received | None:
        path = folder / "file"
        start = bytearray()
        received = total = 0

        def begin(answer: Answer) -> None:
            nonlocal total
            if answer.content_type in _PAGES:
                raise LoraInvalid(
                    f"{answer.host} sent a web page, not a LoRA: a sign-in or overview page, perhaps. Give the address "
                    "of the file itself."
                )
            total = answer.size or 0
            self._check_space(total)
            on_bytes(0, total)

        with path.open("wb") as out:

            def write(piece: bytes) -> None:
                nonlocal received
                if len(start) < _START:
                    start.extend(piece[: _START - len(start)])
                    if len(start) >= _START:
                        check_start(bytes(start))
                out.write(piece)
                received += len(piece)
                on_bytes(received, total)

            try:
                answer = download(
                    file_address(source),
                    write,
                    DownloadLimits(self._max_bytes, self._seconds, self._allow_hosts),
                    begin=begin,
                    beat=lambda: on_bytes(received, total),
                    etag="" if stored is None else stored.version,
                    resolver=self._resolver,
                )
            except FetchFailed as error:
                if error.details.get("status") not in (401, 403):
                    raise
                raise FetchFailed(
                    f"{error.details['host']} does not give this file without a sign-in. For a file of the Hugging "
                    f"Face hub use hf://org/name/file.safetensors, which uses {TOKEN}; upload other files.",
                    **error.details,
                ) from error
        return None if answer is None else _Received(path, _name(answer.name), answer.etag)

    def _from_hub(
        self, source: str, stored: DownloadedFile | None, folder: Path, on_bytes: OnBytes, token: str | None
    ) -> _Received | None:
        file = hub_file(source)
        version = None if stored is None else stored.version
        received = download_hub_file(file, folder, version, self._max_bytes, self._check_space, on_bytes, token)
        return None if received is None else _Received(received[0], _name(file.file), received[1])


def _name(name: str) -> str:
    return one_line(re.split(r"[/\\]", name)[-1], 200) or "lora.safetensors"
