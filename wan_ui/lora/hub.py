"""LoRA files of the Hugging Face hub: `hf://` addresses, and their download with progress."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import huggingface_hub
from huggingface_hub import constants
from tqdm.auto import tqdm

from wan_ui.errors import FetchFailed, LoraNotFound
from wan_ui.hub_errors import TOKEN, hub_errors
from wan_ui.text import one_line

SCHEME = "hf://"
MAX_NAME_BYTES = 200  # of each part of a file's path
_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_SOURCE = re.compile(
    r"hf://(?P<repo>[\w.-]{1,96}/[\w.-]{1,96})/(?P<file>[^@\\:*?\"<>|\x00-\x1f\x7f\ud800-\udfff]{1,500}\.safetensors)(?:@(?P<revision>[\w.+/-]{1,200}))?",
    re.IGNORECASE | re.ASCII,
)

OnBytes = Callable[[int, int], None]
"""Bytes received so far and in all (0: unknown). Called several times a second, also while none come; may raise."""


@dataclass(frozen=True)
class HubFile:
    """A file of the hub: `repo` is org/name, `file` its path in there, `revision` None for the main branch."""

    repo: str
    file: str
    revision: str | None


def hub_file(source: str) -> HubFile:
    """The parts of `hf://org/name/path/to/file.safetensors[@revision]`. Raises LoraNotFound."""
    match = _SOURCE.fullmatch(source)
    parts = [] if match is None else f"{match['repo']}/{match['file']}/{match['revision'] or 'main'}".split("/")
    # A file system takes names of at most 255 bytes, and some are added to them while a file is being downloaded.
    if match is None or any(part in ("", ".", "..") or len(part.encode()) > MAX_NAME_BYTES for part in parts):
        raise LoraNotFound(
            f"{one_line(source, 120)} is not a Hugging Face path: write hf://org/name/path/to/file.safetensors, with "
            "@revision behind it for another than the main branch."
        )
    return HubFile(match["repo"], match["file"], match["revision"])


def file_address(url: str) -> str:
    """The address of the file itself: the hub's page about a file (`/blob/`) becomes the file (`/resolve/`)."""
    try:
        split = urlsplit(url.strip())
    except ValueError:
        return url  # not an address: the download says so
    if (split.hostname or "").lower() not in (*_HOSTS, urlsplit(constants.ENDPOINT).hostname):
        return url
    return urlunsplit(split._replace(path=re.sub(r"^(/[^/]+/[^/]+)/blob/", r"\1/resolve/", split.path)))


def download_hub_file(
    file: HubFile,
    folder: Path,
    version: str | None,
    max_bytes: int,
    check_space: Callable[[int], None],
    on_bytes: OnBytes,
    token: str | None = None,
) -> tuple[Path, str] | None:
    """Downloads a file into `folder`: its path and its commit; None when that is still `version`.

    `check_space` is given the file's size before its bytes are asked for, and may raise. `token` takes the place of
    this machine's own, NO_TOKEN too. Raises FetchFailed.
    """
    on_bytes(0, 0)
    # False: no token at all, rather than one that somebody once stored on this machine.
    own = os.environ.get(TOKEN) if token is None else None
    common: dict[str, Any] = {"local_dir": folder, "token": token or own or False}
    with hub_errors(FetchFailed, file.repo, file.file, file.revision):
        about = huggingface_hub.hf_hub_download(file.repo, file.file, revision=file.revision, dry_run=True, **common)
        if version == about.commit_hash:
            return None
        total = about.file_size or 0
        if total > max_bytes:
            raise FetchFailed(f"{file.file} has {total} bytes; the limit is {max_bytes} bytes.")
        check_space(total)
        bar = _bar_class(lambda received: on_bytes(min(received, total), total))
        path = huggingface_hub.hf_hub_download(
            file.repo, file.file, revision=about.commit_hash, tqdm_class=bar, **common
        )
    on_bytes(total, total)  # a cancel raised inside the hub's own download may have been swallowed there
    return Path(path), about.commit_hash


def _bar_class(on_received: Callable[[int], None]) -> type[tqdm]:  # type: ignore[type-arg]
    class Bar(tqdm):  # type: ignore[type-arg]
        """A silent bar that passes on the bytes received. Of the two that some downloads have, the slower one."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["disable"] = True
            self._counts = not str(kwargs.get("desc", "")).endswith("downloading bytes")
            self._received = int(kwargs.get("initial") or 0)
            super().__init__(*args, **kwargs)

        def update(self, n: float | None = 1) -> bool | None:
            self._received += int(n or 0)
            if self._counts:
                on_received(self._received)
            return super().update(n)

    return Bar
