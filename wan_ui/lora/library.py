"""The LoRA files at hand: a path, an upload or a fetched address becomes a checked file; it knows no torch."""

from __future__ import annotations

import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from wan_ui.access import LOCAL_ACCESS, NO_FILE_OWNERS, Access, FileOwners, UploadedFiles
from wan_ui.errors import LoraInvalid, LoraNotFound
from wan_ui.lora.fit import Configs, no_configs
from wan_ui.lora.hash_cache import HashCache, file_mark, read_sha256
from wan_ui.lora.header import LoraHeader, read_header
from wan_ui.lora.hub import OnBytes
from wan_ui.lora.pair_names import partner_name
from wan_ui.lora.remote import RemoteFiles, is_remote
from wan_ui.lora.report import describe
from wan_ui.lora.uploads import Uploads
from wan_ui.text import one_line

SUFFIX = ".safetensors"
HASHES = "hashes.json"  # in the folder of uploads
UPLOAD = "upload://"
LONGEST_SOURCE = 4096
MOST_KNOWN = 64  # headers kept at hand
SEARCH_SECONDS = 20.0  # for reading files whose hash nobody asked for yet


@dataclass(frozen=True)
class LoraFile:
    """A sound LoRA file. `name`: as the user knows it; `path`: where it is; `size` in bytes."""

    name: str
    path: Path
    sha256: str
    size: int
    header: LoraHeader


class Library:
    """Files under `lora_dir`, uploads under `uploads_dir` (None: no uploads are taken) and what `sources` fetches.

    `owners` records who uploaded what. Methods that find uploads take the caller's `access`: an upload that is not
    the caller's to use is reported as missing.
    """

    def __init__(
        self,
        lora_dir: Path,
        uploads_dir: Path | None = None,
        sources: RemoteFiles | None = None,
        owners: FileOwners = NO_FILE_OWNERS,
    ) -> None:
        self._lora_dir = lora_dir
        self._sources = sources
        self._uploads = None if uploads_dir is None else Uploads(uploads_dir)
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[object, ...], LoraFile] = OrderedDict()
        self._hashes = HashCache(None if uploads_dir is None else uploads_dir / HASHES)
        self._owned = UploadedFiles(owners, "lora")

    @property
    def lora_dir(self) -> Path:
        """The root of the paths that requests name."""
        return self._lora_dir

    def locate(self, source: str, access: Access, sha256: str | None = None) -> LoraFile:
        """The file of a source: a relative path under the LoRA folder, `upload://<id>`, or an address once fetched.

        Of an address, `sha256` asks for the copy that was fetched then, not the latest; paths are as they are now.
        Raises LoraNotFound when there is no such file or the path leaves the folder, LoraInvalid when it is no LoRA.
        """
        if not source or len(source) > LONGEST_SOURCE or "\0" in source:
            raise LoraNotFound("The LoRA path is empty or not a path.")
        if source.startswith(UPLOAD):
            return self._upload(source, access)
        if is_remote(source):
            return self._fetched(source, sha256)
        path = self._inside(source)
        return self._checked(path, PurePosixPath(source).name, self._hashes.of)

    def fetch(self, source: str, on_bytes: OnBytes) -> tuple[str, ...]:
        """Makes locate answer for an address, with its file as it is there now; sentences for the user.

        Raises what Sources.fetch raises.
        """
        if self._sources is None:
            raise LoraNotFound("This server fetches no LoRAs: put the file under the LoRA folder, or upload it.")
        return self._sources.fetch(source, on_bytes)

    def is_held(self, source: str) -> bool:
        """Whether the file of an address was fetched and is still here."""
        return self._sources is not None and self._sources.downloaded(source) is not None

    def sweep(self) -> None:
        """Removes what a killed process left half stored. Only for a process that alone holds the data folder."""
        if self._uploads is not None:
            self._uploads.sweep()
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

    def with_sha256(self, sha256: str, access: Access, like: str = "", seconds: float = SEARCH_SECONDS) -> str | None:
        """The source of a sound file with this content: a path of the LoRA folder, or an upload of its user; or None.

        Files named as `like` ends are looked at first, then those whose hash is known, then the others for as many
        `seconds`: `unread` says whether some were left, and the next call goes on with those.
        """
        name = PurePosixPath(like).name
        end = time.monotonic() + seconds
        paths = self.listing()
        named = [path for path in paths if PurePosixPath(path).name == name]
        unread = set(self.unread(paths))
        looked = [path for path in paths if path not in unread]
        for path in dict.fromkeys((*named, *looked, *paths)):
            if path in unread and path not in named and time.monotonic() > end:
                continue
            if self._has(path, sha256):
                return path
        return self._uploaded(sha256, name, access)

    def unread(self, paths: Sequence[str] | None = None) -> tuple[str, ...]:
        """Those of `paths` (None: of the listing) whose hash is not known as they are now."""
        root = self._lora_dir.resolve()
        found = []
        for path in self.listing() if paths is None else paths:
            try:
                if self._hashes.known((root / path).resolve()) is None:
                    found.append(path)
            except OSError:
                continue  # gone since it was listed
        return tuple(found)

    def _has(self, path: str, sha256: str) -> bool:
        try:
            if self._hashes.of((self._lora_dir.resolve() / path).resolve()) != sha256:
                return False
            return self.locate(path, LOCAL_ACCESS).sha256 == sha256  # a path, never an upload
        except (OSError, LoraNotFound, LoraInvalid):
            return False  # gone, unreadable or broken: not the one

    def _uploaded(self, sha256: str, name: str, access: Access) -> str | None:
        if self._uploads is None:
            return None
        found = self._uploads.with_sha256(sha256, lambda upload_id: self._owned.may_use(upload_id, access))
        for upload in sorted(found, key=lambda one: (one.name != name, not self._owned.is_owner(one.id, access))):
            source = UPLOAD + upload.id
            try:
                if self.locate(source, access).sha256 == sha256:
                    return source
            except (LoraNotFound, LoraInvalid):
                continue
        return None

    def add_upload(self, file: Path, name: str, access: Access) -> str:
        """Move a finished upload in and return its source, "upload://<id>".

        `name` is the name it had at the sender; equal contents are stored once, whatever their names.
        Raises LoraInvalid when it is no sound LoRA (`file` then stays where it is), DiskFull, or HostError.
        """
        if self._uploads is None:
            raise LoraNotFound("This server takes no LoRA uploads: put the file under the LoRA folder.")
        kept = one_line(re.split(r"[/\\]", name)[-1])
        if not kept.lower().endswith(SUFFIX):
            raise LoraInvalid(f"{kept or 'The upload'} is not a {SUFFIX} file.", path=kept)
        found = self._checked(file, kept)
        upload = self._uploads.add(file, kept, found.sha256)
        self._owned.record_owner(upload.id, access)
        return UPLOAD + upload.id

    def partner(self, source: str, access: Access) -> str | None:
        """The source of the other half of a pair, by its name: beside a path, or among the uploads; None: none.

        Raises what locate raises, for `source` itself.
        """
        file = self.locate(source, access)
        wanted = partner_name(file.name)
        if wanted is None:
            return None
        if source.startswith(UPLOAD):
            upload = None
            if self._uploads is not None:
                upload = self._uploads.named(wanted, lambda upload_id: self._owned.is_owner(upload_id, access))
            return None if upload is None else UPLOAD + upload.id
        if is_remote(source):
            other = wanted.join(source.rsplit(file.name, 1)) if file.name in source else source
            known = None if self._sources is None or other == source else self._sources.downloaded(other)
            return None if known is None else other
        beside = str(PurePosixPath(source).with_name(wanted))
        try:
            self.locate(beside, access)
        except (LoraNotFound, LoraInvalid):
            return None  # a partner that cannot be used is none; picking it by hand says why
        return beside

    def inspect(self, source: str, access: Access, configs: Configs = no_configs) -> dict[str, Any]:
        """The inspection of a source, with its partner's source. Raises what locate raises."""
        partner = self.partner(source, access)
        other = None if partner is None else self.locate(partner, access)
        said = describe(self.locate(source, access).header, partner, None if other is None else other.header, configs)
        if other is not None and other.sha256 == self.locate(source, access).sha256:
            said["messages"].append("Both halves of the pair are the same file.")
        return said

    def _upload(self, source: str, access: Access) -> LoraFile:
        # A name may stand behind the id, for whoever reads the source: upload://<id>/fox_000000500.safetensors.
        upload_id = source.removeprefix(UPLOAD).split("/")[0]
        upload = None if self._uploads is None else self._uploads.find(upload_id)
        gone = self._uploads is None or upload is None or not self._uploads.path(upload).is_file()
        if self._uploads is None or upload is None or gone or not self._owned.may_use(upload.id, access):
            raise LoraNotFound("There is no such upload: upload the LoRA again.", path=one_line(source, 120))
        return self._checked(self._uploads.path(upload), upload.name)

    def _fetched(self, source: str, sha256: str | None) -> LoraFile:
        held = None if self._sources is None else self._sources.downloaded(source)
        if self._sources is None or held is None:
            raise LoraNotFound("The LoRA of this address is not here yet, or not any more: send the request again.")
        then = sha256 if sha256 is not None and self._sources.path(sha256).is_file() else held.sha256
        return self._checked(self._sources.path(then), held.name, lambda _path: then)

    def _inside(self, source: str) -> Path:
        shown = one_line(source, 120)
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

    def _checked(self, path: Path, name: str, sha256_of: Callable[[Path], str] = read_sha256) -> LoraFile:
        """Inspected and hashed, once as long as it does not change."""
        try:
            stat = path.stat()
            key = (str(path), file_mark(stat), name)
            with self._lock:
                known = self._known.get(key)
                if known is not None:
                    self._known.move_to_end(key)
                    return known
            header = read_header(path, name)
            sha256 = sha256_of(path)
        except OSError as error:
            raise LoraNotFound(f"The LoRA {one_line(name, 120)} cannot be read.", path=one_line(name, 120)) from error
        found = LoraFile(name, path, sha256, stat.st_size, header)
        with self._lock:
            self._known[key] = found
            if len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
        return found
