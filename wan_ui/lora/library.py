"""Finds LoRA files: a path, an upload or a downloaded address becomes a checked file with its hash and header."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from cachetools import LRUCache

from wan_ui.access import LOCAL_ACCESS, Access, FileOwners, UploadedFiles
from wan_ui.errors import LoraInvalid, LoraNotFound
from wan_ui.files import check_descriptors
from wan_ui.lora.fit import Configs, no_configs
from wan_ui.lora.hash_cache import HashCache, file_mark, read_sha256
from wan_ui.lora.header import LoraHeader, read_header
from wan_ui.lora.hub import OnBytes
from wan_ui.lora.metadata import ADAPTER_CONFIG
from wan_ui.lora.pair_names import partner_name
from wan_ui.lora.remote import RemoteFiles, is_remote
from wan_ui.lora.report import describe
from wan_ui.lora.uploads import Upload, Uploads
from wan_ui.text import is_utf8, one_line

SUFFIX = ".safetensors"
COMFY_FOLDER, JOBS_FOLDER = "ComfyUI", "jobs"  # the first part of a path in those folders, in requests and lists
Folders = Mapping[str, Callable[[], Sequence[Path]]]
"""Further folders with LoRA files by the first part of their files' paths; read anew at each use."""
_NO_FOLDERS: Folders = MappingProxyType({})
HASHES = "hashes.json"  # in the folder of uploads
UPLOAD = "upload://"
LONGEST_SOURCE = 4096
MOST_CACHED = 64  # headers
SEARCH_SECONDS = 20.0  # for hashing files that were never hashed


@dataclass(frozen=True)
class LoraFile:
    """A valid LoRA file. `name`: as the user knows it; `path`: on the server; `size` in bytes."""

    name: str
    path: Path
    sha256: str
    size: int
    header: LoraHeader


class Library:
    """Files under `lora_dir`, uploads under `uploads_dir` (None: no uploads are accepted) and downloads of `sources`.

    Files of `further` folders are named with the folder's name in front: `ComfyUI/style.safetensors`. Where the LoRA
    folder has such a file of its own, that one is meant. `guest_downloads`: visitors may have speed LoRAs downloaded.
    `owners` records who uploaded what. Methods that find uploads take the caller's `access`: an upload that is not
    the caller's to use is reported as missing.
    """

    def __init__(
        self,
        lora_dir: Path,
        uploads_dir: Path | None = None,
        sources: RemoteFiles | None = None,
        owners: FileOwners | None = None,
        further: Folders = _NO_FOLDERS,
        guest_downloads: bool = False,
    ) -> None:
        self._lora_dir = lora_dir
        self._further = further
        self._guest_downloads = guest_downloads
        self._sources = sources
        self._uploads = None if uploads_dir is None else Uploads(uploads_dir)
        self._lock = threading.Lock()
        self._checked_files: LRUCache[tuple[object, ...], LoraFile] = LRUCache(MOST_CACHED)
        self._hashes = HashCache(None if uploads_dir is None else uploads_dir / HASHES)
        self._owned = UploadedFiles(owners, "lora")

    @property
    def lora_dir(self) -> Path:
        """The root of the paths that requests name."""
        return self._lora_dir

    def roots(self) -> tuple[tuple[str, Path], ...]:
        """The folders that are searched, resolved, each with what its files' paths start with; the LoRA folder first.

        A folder that lies in an earlier one is left out: its files are listed already.
        """
        found = [("", self._lora_dir.resolve())]
        for name, folders in self._further.items():
            for folder in folders():
                root = folder.resolve()
                if root.is_dir() and not any(root.is_relative_to(earlier) for _, earlier in found):
                    found.append((name, root))
        return tuple(found)

    def source_of(self, path: Path) -> str | None:
        """The path in requests of a file below one of `roots`; None for any other."""
        for prefix, root in self.roots():
            if path.is_relative_to(root):
                return str(PurePosixPath(prefix, path.relative_to(root).as_posix()))
        return None

    def relative(self, source: str) -> str:
        """The path in requests of an absolute path below one of `roots`; any other source as it is."""
        if not Path(source).is_absolute():
            return source
        try:
            return self.source_of(Path(source).resolve()) or source
        except (OSError, RuntimeError, ValueError):  # a name too long, a loop of links, a null byte: locate refuses it
            return source

    def folders_with(self, names: Collection[str]) -> list[str]:
        """The folders of listed files that hold a file of one of these names."""
        folders = dict.fromkeys(str(PurePosixPath(path).parent) for path in self.listing())
        roots = self.roots()
        return [
            folder
            for folder in folders
            if any(
                (root / rest / name).is_file()
                for prefix, root in roots
                if (rest := below(prefix, folder)) is not None
                for name in names
            )
        ]

    def locate(self, source: str, access: Access, sha256: str | None = None) -> LoraFile:
        """The file of a source: a relative path under the LoRA folder, `upload://<id>`, or an address once downloaded.

        Of an address, `sha256` asks for that download instead of the latest; of a path, the current file is used.
        Raises LoraNotFound when there is no such file or the path leaves the folder, LoraInvalid when it is no LoRA.
        """
        if not source or len(source) > LONGEST_SOURCE or "\0" in source:
            raise LoraNotFound("The LoRA path is empty or not a path.")
        if source.startswith(UPLOAD):
            return self._upload(source, access)
        if is_remote(source):
            return self._fetched(source, sha256, access)
        path = self._inside(source)
        return self._checked(path, PurePosixPath(source).name, self._hashes.of)

    def path_of(self, source: str) -> Path:
        """The file of a path in requests, unread. Raises LoraNotFound or LoraInvalid."""
        return self._inside(source)

    def fetch(self, source: str, on_bytes: OnBytes, token: str | None = None) -> tuple[str, ...]:
        """Downloads the current file of an address, so that locate finds it; returns sentences for the user.

        `token` is the request's own for the Hugging Face hub.

        Raises what RemoteFiles.fetch raises.
        """
        if self._sources is None:
            raise LoraNotFound("This server downloads no LoRAs: put the file under the LoRA folder, or upload it.")
        return self._sources.fetch(source, on_bytes, token)

    def may_download(self, access: Access) -> bool:
        """Whether a speed LoRA that is not here may be downloaded for the caller."""
        return self._sources is not None and (access.identity.owner or self._guest_downloads)

    def is_downloaded(self, source: str) -> bool:
        """Whether the file of an address is stored on this server."""
        return self._sources is not None and self._sources.downloaded(source) is not None

    def sweep(self) -> None:
        """Removes unfinished files of a killed process. Only for a process that owns the data folder."""
        if self._uploads is not None:
            self._uploads.sweep()
        if self._sources is not None:
            self._sources.sweep()

    def listing(self, search: str = "") -> tuple[str, ...]:
        """The relative paths, sorted, of the .safetensors files in the folders that locate would open.

        Hidden ones are left out. With `search`, those that hold each of its words, in any case.
        """
        words = search.lower().split()
        paths = (path for prefix, root in self.roots() for path in _listed(prefix, root))
        return tuple(sorted({path for path in paths if all(word in path.lower() for word in words)}, key=_by_name))

    def with_sha256(self, sha256: str, access: Access, like: str = "", seconds: float = SEARCH_SECONDS) -> str | None:
        """The source of a valid file with this content: a path of the LoRA folder, or an upload of its user; or None.

        Files with the name of `like` are read first, then those whose hash is known, then the others for up to
        `seconds`: `unread` returns those that were left, and the next call continues with them.
        """
        name = PurePosixPath(like).name
        end = time.monotonic() + seconds
        paths = self.listing()
        named = [path for path in paths if PurePosixPath(path).name == name]
        unread = set(self.unread(paths))
        hashed = [path for path in paths if path not in unread]
        for path in dict.fromkeys((*named, *hashed, *paths)):
            if path in unread and path not in named and time.monotonic() > end:
                continue
            if self._has(path, sha256):
                return path
        return self._uploaded(sha256, name, access)

    def unread(self, paths: Sequence[str] | None = None) -> tuple[str, ...]:
        """Those of `paths` (None: all listed files) whose current hash is not known."""
        unread, roots = [], self.roots()
        for path in self.listing() if paths is None else paths:
            try:
                if self._hashes.known(self._inside(path, roots)) is None:
                    unread.append(path)
            except (OSError, LoraNotFound, LoraInvalid):
                continue  # removed since it was listed
        return tuple(unread)

    def _has(self, path: str, sha256: str) -> bool:
        try:
            if self._hashes.of(self._inside(path)) != sha256:
                return False
            return self.locate(path, LOCAL_ACCESS).sha256 == sha256  # a path, never an upload
        except (OSError, LoraNotFound, LoraInvalid):
            return False  # removed, unreadable or invalid

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
        """Moves a finished upload into the store and returns its source, "upload://<id>".

        `name` is its name on the client; equal contents are stored once, whatever their names.
        Raises LoraInvalid when it is not a valid LoRA (`file` is then not moved), DiskFull, or HostError.
        """
        if self._uploads is None:
            raise LoraNotFound("This server accepts no LoRA uploads: put the file under the LoRA folder.")
        shown = one_line(re.split(r"[/\\]", name)[-1])
        if not shown.lower().endswith(SUFFIX):
            raise LoraInvalid(f"{shown or 'The upload'} is not a {SUFFIX} file.", path=shown)
        upload = self._uploads.add(file, shown, self._checked(file, shown).sha256)
        self._owned.record_owner(upload.id, access)
        return UPLOAD + upload.id

    def uploads(self) -> tuple[Upload, ...]:
        """All uploaded files, the oldest first."""
        return () if self._uploads is None else self._uploads.all()

    def delete_upload(self, upload_id: str) -> None:
        """Removes an upload, whoever sent it. Raises OSError."""
        if self._uploads is not None:
            self._uploads.delete(upload_id)

    def partner(self, source: str, access: Access) -> str | None:
        """The source of the other half of a pair, by its name: in the same folder, or among the uploads; or None.

        Raises what locate raises, for `source` itself.
        """
        file = self.locate(source, access)
        expected = partner_name(file.name)
        if expected is None:
            return None
        if source.startswith(UPLOAD):
            upload = None
            if self._uploads is not None:
                upload = self._uploads.named(expected, lambda upload_id: self._owned.is_owner(upload_id, access))
            return None if upload is None else UPLOAD + upload.id
        if is_remote(source):
            other = expected.join(source.rsplit(file.name, 1)) if file.name in source else source
            known = None if self._sources is None or other == source else self._sources.downloaded(other)
            return None if known is None else other
        beside = str(PurePosixPath(source).with_name(expected))
        try:
            self.locate(beside, access)
        except (LoraNotFound, LoraInvalid):
            return None  # choosing that file by hand reports what is wrong with it
        return beside

    def inspect(self, source: str, access: Access, configs: Configs = no_configs) -> dict[str, Any]:
        """The inspection of a source, with its partner's source. Raises what locate raises."""
        partner = self.partner(source, access)
        other = None if partner is None else self.locate(partner, access)
        inspection = describe(
            self.locate(source, access).header, partner, None if other is None else other.header, configs
        )
        if other is not None and other.sha256 == self.locate(source, access).sha256:
            inspection["messages"].append("Both halves of the pair are the same file.")
        return inspection

    def _upload(self, source: str, access: Access) -> LoraFile:
        # The id may be followed by a name for readers: upload://<id>/fox_000000500.safetensors.
        upload_id = source.removeprefix(UPLOAD).split("/")[0]
        upload = None if self._uploads is None else self._uploads.find(upload_id)
        gone = self._uploads is None or upload is None or not self._uploads.path(upload).is_file()
        if self._uploads is None or upload is None or gone or not self._owned.may_use(upload.id, access):
            raise LoraNotFound("This upload was not found: upload the LoRA again.", path=one_line(source, 120))
        return self._checked(self._uploads.path(upload), upload.name)

    def _fetched(self, source: str, sha256: str | None, access: Access) -> LoraFile:
        stored = None if self._sources is None else self._sources.downloaded(source)
        closed = stored is not None and stored.private and not access.identity.owner
        if self._sources is None or stored is None or closed:
            raise LoraNotFound("This LoRA has not been downloaded (or was removed). Generate again to download it.")
        chosen = sha256 if sha256 is not None and self._sources.path(sha256).is_file() else stored.sha256
        return self._checked(self._sources.path(chosen), stored.name, lambda _path: chosen)

    def _inside(self, source: str, roots: Sequence[tuple[str, Path]] = ()) -> Path:
        """The file of a relative path, in the LoRA folder or below one of the `roots` (none: read anew)."""
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
        try:
            return _file_in(self._lora_dir.resolve(), source, shown)
        except LoraNotFound:
            if pure.parts[0] not in self._further:
                raise
            for prefix, root in roots or self.roots():
                rest = below(prefix, source)
                if prefix and rest is not None and (root / rest).is_file():
                    return _file_in(root, rest, shown)
            raise

    def _checked(self, path: Path, name: str, sha256_of: Callable[[Path], str] = read_sha256) -> LoraFile:
        """The file with its header and hash, which are read again only when it changes."""
        try:
            stat = path.stat()
            key = (str(path), _config_mark(path), file_mark(stat), name)
            with self._lock:
                cached = self._checked_files.get(key)
                if cached is not None:
                    return cached
            header = read_header(path, name)
            sha256 = sha256_of(path)
        except OSError as error:
            check_descriptors(error)
            raise LoraNotFound(f"The LoRA {one_line(name, 120)} cannot be read.", path=one_line(name, 120)) from error
        file = LoraFile(name, path, sha256, stat.st_size, header)
        with self._lock:
            self._checked_files[key] = file
        return file


def below(prefix: str, source: str) -> str | None:
    """What is left of a path in requests below a folder with this prefix; None where it starts otherwise."""
    if not prefix:
        return source
    first, _, rest = source.partition("/")
    return (rest or ".") if first == prefix else None


def _by_name(path: str) -> tuple[str, str]:
    return path.lower(), path


def _listed(prefix: str, root: Path) -> Iterator[str]:
    """The .safetensors files of a folder tree, as requests name them.

    No hidden ones, no links that lead out of the tree, and none whose name is not UTF-8, which no request can state.

    A folder that a Mac wrote to a USB drive or a share has `._name.safetensors`, 4 kB of its own, beside each file.
    """
    for folder, _, files in os.walk(root):
        for file in (name for name in files if not name.startswith(".")):
            path = Path(folder, file)
            if path.suffix.lower() != SUFFIX or not is_utf8(str(path)):
                continue
            if path.is_file() and path.resolve().is_relative_to(root):
                yield str(PurePosixPath(prefix, path.relative_to(root).as_posix()))


def _file_in(root: Path, source: str, shown: str) -> Path:
    """The file at a relative path below a folder. Raises LoraNotFound, or LoraInvalid for a folder."""
    try:
        path = (root / source).resolve()
        inside, is_file, is_dir = path.is_relative_to(root), path.is_file(), path.is_dir()
    except (OSError, RuntimeError) as error:  # a name too long for the file system, or a loop of links
        raise LoraNotFound(f"There is no LoRA {shown} under the LoRA folder.", path=shown) from error
    if inside and is_dir:
        raise LoraInvalid(f"{shown} is a folder, not a file.", path=shown)
    if not inside or not is_file:
        raise LoraNotFound(f"There is no LoRA {shown} under the LoRA folder.", path=shown)
    return path


def _config_mark(path: Path) -> object:
    """Changes whenever PEFT's adapter_config.json beside a file does, which states the file's alpha."""
    try:
        return file_mark(path.with_name(ADAPTER_CONFIG).stat())
    except OSError:
        return None
