"""The LoRA files at hand: a path, an upload or a fetched address becomes a checked file; it knows no torch."""

from __future__ import annotations

import copy
import hashlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from wan_ui.errors import LoraInvalid, LoraNotFound
from wan_ui.lora.header import Configs, LoraHeader, no_configs, partner_name, read_header
from wan_ui.lora.inspection import describe
from wan_ui.lora.sources import OnBytes, Sources, is_remote
from wan_ui.lora.told import clean
from wan_ui.lora.uploads import Uploads

SUFFIX = ".safetensors"
UPLOAD = "upload://"
LONGEST_SOURCE = 4096
MOST_KNOWN = 64  # headers and hashes kept at hand


@dataclass(frozen=True)
class LoraFile:
    """A sound LoRA file. `name`: as the user knows it; `path`: where it is; `size` in bytes."""

    name: str
    path: Path
    sha256: str
    size: int
    header: LoraHeader


class Library:
    """Files under `lora_dir`, uploads under `uploads_dir` (None: no uploads are taken) and what `sources` fetches."""

    def __init__(self, lora_dir: Path, uploads_dir: Path | None = None, sources: Sources | None = None) -> None:
        self._lora_dir = lora_dir
        self._sources = sources
        self._uploads = None if uploads_dir is None else Uploads(uploads_dir)
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, int, int, str], LoraFile] = OrderedDict()
        self._may: Callable[[str], bool] = _everyone
        self._holds: Callable[[str], bool] = _everyone
        self._took: Callable[[str], None] = _unnoted

    def seen_by(self, may: Callable[[str], bool], holds: Callable[[str], bool], took: Callable[[str], None]) -> Library:
        """The same library for one of its users.

        By an upload's id, `may` says whether they may use it, `holds` whether they brought it (the other half of a
        pair is looked for among those), and `took` is told of each that they bring.
        """
        seen = copy.copy(self)
        seen._may, seen._holds, seen._took = may, holds, took
        return seen

    @property
    def lora_dir(self) -> Path:
        """The root of the paths that requests name."""
        return self._lora_dir

    def locate(self, source: str, sha256: str | None = None) -> LoraFile:
        """The file of a source: a relative path under the LoRA folder, `upload://<id>`, or an address once fetched.

        Of an address, `sha256` asks for the copy that was fetched then, not the latest; paths are as they are now.
        Raises LoraNotFound when there is no such file or the path leaves the folder, LoraInvalid when it is no LoRA.
        """
        if not source or len(source) > LONGEST_SOURCE or "\0" in source:
            raise LoraNotFound("The LoRA path is empty or not a path.")
        if source.startswith(UPLOAD):
            return self._upload(source)
        if is_remote(source):
            return self._fetched(source, sha256)
        path = self._inside(source)
        return self._checked(path, PurePosixPath(source).name)

    def fetch(self, source: str, on_bytes: OnBytes) -> tuple[str, ...]:
        """Makes locate answer for an address, with its file as it is there now; sentences for the user.

        Raises what Sources.fetch raises.
        """
        if self._sources is None:
            raise LoraNotFound("This server fetches no LoRAs: put the file under the LoRA folder, or upload it.")
        return self._sources.fetch(source, on_bytes)

    def is_held(self, source: str) -> bool:
        """Whether the file of an address was fetched and is still here."""
        return self._sources is not None and self._sources.held(source) is not None

    def sweep(self) -> None:
        """Removes what a killed process left half fetched. Only for a process that alone holds the data folder."""
        if self._sources is not None:
            self._sources.sweep()

    def listing(self, search: str = "") -> tuple[str, ...]:
        """The relative paths, sorted, of the .safetensors files under the LoRA folder that locate would open.

        With `search`, those that hold each of its words, in any case.
        """
        root = self._lora_dir.resolve()
        words = search.lower().split()
        found: list[str] = []
        for folder, folders, files in os.walk(root):
            folders.sort()
            for file in files:
                path = Path(folder, file)
                shown = path.relative_to(root).as_posix()
                if (
                    path.suffix.lower() == SUFFIX
                    and all(word in shown.lower() for word in words)
                    and path.is_file()
                    and path.resolve().is_relative_to(root)
                ):
                    found.append(shown)
        return tuple(sorted(found, key=str.lower))

    def add_upload(self, file: Path, name: str) -> str:
        """Move a finished upload in and return its source, "upload://<id>".

        `name` is the name it had at the sender; equal contents are stored once, whatever their names.
        Raises LoraInvalid when it is no sound LoRA (`file` then stays where it is), DiskFull, or HostError.
        """
        if self._uploads is None:
            raise LoraNotFound("This server takes no LoRA uploads: put the file under the LoRA folder.")
        kept = clean(re.split(r"[/\\]", name)[-1])
        if not kept.lower().endswith(SUFFIX):
            raise LoraInvalid(f"{kept or 'The upload'} is not a {SUFFIX} file.", path=kept)
        found = self._checked(file, kept)
        upload = self._uploads.add(file, kept, found.sha256)
        self._took(upload.id)
        return UPLOAD + upload.id

    def partner(self, source: str) -> str | None:
        """The source of the other half of a pair, by its name: beside a path, or among the uploads; None: none.

        Raises what locate raises, for `source` itself.
        """
        file = self.locate(source)
        wanted = partner_name(file.name)
        if wanted is None:
            return None
        if source.startswith(UPLOAD):
            upload = None if self._uploads is None else self._uploads.named(wanted, self._holds)
            return None if upload is None else UPLOAD + upload.id
        if is_remote(source):
            other = wanted.join(source.rsplit(file.name, 1)) if file.name in source else source
            known = None if self._sources is None or other == source else self._sources.held(other)
            return None if known is None else other
        beside = str(PurePosixPath(source).with_name(wanted))
        try:
            self.locate(beside)
        except (LoraNotFound, LoraInvalid):
            return None  # a partner that cannot be used is none; picking it by hand says why
        return beside

    def inspect(self, source: str, configs: Configs = no_configs) -> dict[str, Any]:
        """The inspection of a source, with its partner's source. Raises what locate raises."""
        partner = self.partner(source)
        other = None if partner is None else self.locate(partner)
        said = describe(self.locate(source).header, partner, None if other is None else other.header, configs)
        if other is not None and other.sha256 == self.locate(source).sha256:
            said["messages"].append("Both halves of the pair are the same file.")
        return said

    def _upload(self, source: str) -> LoraFile:
        # A name may stand behind the id, for whoever reads the source: upload://<id>/fox_000000500.safetensors.
        upload_id = source.removeprefix(UPLOAD).split("/")[0]
        upload = None if self._uploads is None else self._uploads.find(upload_id)
        gone = self._uploads is None or upload is None or not self._uploads.path(upload).is_file()
        if self._uploads is None or upload is None or gone or not self._may(upload.id):
            raise LoraNotFound("There is no such upload: upload the LoRA again.", path=clean(source, 120))
        return self._checked(self._uploads.path(upload), upload.name)

    def _fetched(self, source: str, sha256: str | None) -> LoraFile:
        held = None if self._sources is None else self._sources.held(source)
        if self._sources is None or held is None:
            raise LoraNotFound("The LoRA of this address is not here yet, or not any more: send the request again.")
        then = sha256 if sha256 is not None and self._sources.path(sha256).is_file() else held.sha256
        return self._checked(self._sources.path(then), held.name, then)

    def _inside(self, source: str) -> Path:
        shown = clean(source, 120)
        if "://" in source:
            raise LoraNotFound(
                f"{shown}: give a path under the LoRA folder, an http(s):// or hf:// address, or upload the file.",
                path=shown,
            )
        pure = PurePosixPath(source)
        if pure.is_absolute() or ".." in pure.parts or "\\" in source:
            raise LoraNotFound(
                f"{shown}: a LoRA path is relative to the LoRA folder, with forward slashes and without '..'.",
                path=shown,
            )
        if pure.suffix.lower() != SUFFIX:
            raise LoraInvalid(f"{shown} is not a {SUFFIX} file.", path=shown)
        root = self._lora_dir.resolve()
        try:
            path = (root / pure).resolve()
            inside, is_file, is_dir = path.is_relative_to(root), path.is_file(), path.is_dir()
        except (OSError, RuntimeError) as error:  # a name too long for the file system, or a loop of links
            raise LoraNotFound(f"There is no LoRA {shown} under the LoRA folder.", path=shown) from error
        if inside and is_dir:
            raise LoraInvalid(f"{shown} is a folder, not a file.", path=shown)
        if not inside or not is_file:
            raise LoraNotFound(f"There is no LoRA {shown} under the LoRA folder.", path=shown)
        return path

    def _checked(self, path: Path, name: str, sha256: str | None = None) -> LoraFile:
        """Inspected and hashed (unless it is stored by its `sha256`), once per (real path, size, time of change)."""
        try:
            stat = path.stat()
            key = (str(path), stat.st_size, stat.st_mtime_ns, name)
            with self._lock:
                known = self._known.get(key)
                if known is not None:
                    self._known.move_to_end(key)
                    return known
            header = read_header(path, name)
            if sha256 is None:
                with path.open("rb") as file:
                    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise LoraNotFound(f"The LoRA {clean(name, 120)} cannot be read.", path=clean(name, 120)) from error
        found = LoraFile(name, path, sha256, stat.st_size, header)
        with self._lock:
            self._known[key] = found
            if len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
        return found


def _everyone(_upload_id: str) -> bool:
    return True


def _unnoted(_upload_id: str) -> None:
    """Where nobody asks who brought what."""
