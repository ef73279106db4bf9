"""Checkpoint folders in diffusers layout: found in a local folder, the Hugging Face cache or on the hub."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import LocalEntryNotFoundError
from tqdm.auto import tqdm

from wan_ui.checkpoints.headers import FileHeader, read_header
from wan_ui.checkpoints.key_maps import ComponentKind
from wan_ui.engine.result import OnProgress, Progress, ignore_progress
from wan_ui.errors import CheckpointIncomplete, CheckpointInvalid, CheckpointNotFound, DiskFull
from wan_ui.files import check_descriptors, disk_full_mapped, free_bytes
from wan_ui.hub_errors import hub_errors
from wan_ui.models import Source, WanModel
from wan_ui.text import gigabytes

_WEIGHTS = {
    "transformer": "diffusion_pytorch_model",
    "transformer_2": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "image_encoder": "model",
}
_CONFIGS = {
    "scheduler": "scheduler_config.json",
    "image_processor": "preprocessor_config.json",
    "tokenizer": "tokenizer_config.json",
    "model_index": "model_index.json",
}
_TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "special_tokens_map.json", "added_tokens.json")
_TOKENIZER_VOCABULARIES = ("tokenizer.json", "spiece.model")
LARGEST_CONFIG = 1 << 20  # bytes of a JSON file that is read whole to tell what a checkpoint is
MOST_NAMED = 5  # missing files that an error names
DISK_RESERVE = 1 << 30  # bytes left free after a download, for clips and the cache's own files


@dataclass(frozen=True)
class SingleFile:
    """A component in a single checkpoint file: what the file lists, which component it is, and the config in force."""

    header: FileHeader
    kind: ComponentKind
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Component:
    """A component's files on disk: its folder and the very files that are read, in a fixed order.

    `single`: the component comes from a single file, with this config, which the file does not hold.
    """

    name: str
    folder: Path
    files: tuple[Path, ...]
    single: SingleFile | None = None

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.stat().st_size for file in self.files)


def folder_headers(component: Component) -> list[FileHeader]:
    """The headers of a folder's safetensors files. Raises what headers.read_header raises."""
    return [
        read_header(file, f"{component.name}/{file.name}") for file in component.files if file.suffix == ".safetensors"
    ]


def _wanted_patterns(name: str, subfolder: str) -> list[str]:
    """The hub's file patterns of one component, so that a download takes what is needed and no more."""
    prefix = f"{subfolder}/" if subfolder else ""
    if name in _WEIGHTS:
        stem = _WEIGHTS[name]
        names = ["config.json", f"{stem}.safetensors", f"{stem}.safetensors.index.json", f"{stem}-*-of-*.safetensors"]
    elif name == "tokenizer":
        names = [_CONFIGS[name], *_TOKENIZER_FILES]
    else:
        names = [_CONFIGS[name]]
    return [prefix + item for item in names]


def _read_json(path: Path, shown: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        check_descriptors(error)
        raise CheckpointIncomplete(f"{shown} cannot be read: put the checkpoint in place again.", file=shown) from error
    if not isinstance(value, dict):
        raise CheckpointIncomplete(f"{shown} is not a JSON object: put the checkpoint in place again.", file=shown)
    return value


class Checkpoints:
    """Finds the files of models, and downloads missing ones.

    `models_dir` is searched first, as `models_dir/<org>/<name>/`; then the Hugging Face cache; then, unless `offline`,
    the hub.
    """

    def __init__(self, models_dir: Path | None, offline: bool = False) -> None:
        self._models_dir = models_dir
        self._offline = offline
        self._digests: dict[tuple[str, int, int], str] = {}

    def component(self, model: WanModel, name: str) -> Component:
        """A component that is on disk. Raises CheckpointNotFound or CheckpointIncomplete."""
        source = model.components[name]
        folder = self._local_folder(source) or self._cached_folder(name, source)
        if folder is None:
            raise CheckpointNotFound(
                f"The checkpoint {source.repo} is not on this machine. Put it under the models folder as "
                f"{source.repo}/, or let this machine reach the Hugging Face hub.",
                repo=source.repo,
            )
        return self._checked(name, source, folder)

    def fetch(
        self, model: WanModel, on_progress: OnProgress, names: Collection[str] | None = None
    ) -> Mapping[str, Component]:
        """The model's components (`names`: these alone), downloaded where missing, with progress in bytes.

        Raises CheckpointNotFound, with the missing files, CheckpointIncomplete, CheckpointInvalid or DiskFull.
        """
        wanted = {name: source for name, source in model.components.items() if names is None or name in names}
        missing = {
            name: source
            for name, source in wanted.items()
            if self._local_folder(source) is None and not self._is_cached(name, source)
        }
        if missing:
            try:
                self._download(missing, on_progress)
            except CheckpointNotFound as error:
                files = [self._first_missing(name, source) for name, source in missing.items()]
                original = self._original_layout(next(iter(missing.values())).repo)
                words = f"{error.message} Missing: {', '.join(files[:MOST_NAMED])}."
                raise CheckpointNotFound(
                    f"{words} {original}".strip(), **{**error.details, "missing": files}
                ) from error
        return {name: self.component(model, name) for name in wanted}

    def _first_missing(self, name: str, source: Source) -> str:
        """The first file of a component that the hub's cache lacks, or all of it."""
        folder = self._cached_folder(name, source)
        shown = "/".join(part for part in (source.repo, source.subfolder) if part)
        if folder is None:
            return shown
        try:
            self._checked(name, source, folder)
        except CheckpointIncomplete as error:
            return str(error.details["file"])
        return shown

    def _original_layout(self, repo: str) -> str:
        """A sentence where the repository in Wan's own layout is here and the one in diffusers' layout is not."""
        original = repo.removesuffix("-Diffusers")
        places = [Path(huggingface_hub.constants.HF_HUB_CACHE) / f"models--{original.replace('/', '--')}"]
        if self._models_dir is not None:
            places.append(self._models_dir / original)
        if original == repo or not any(place.is_dir() for place in places):
            return ""
        return f"{original}, which is on this machine, has Wan's original layout; {repo} is needed."

    def transformer_config(self, model: WanModel, component: str = "transformer") -> Mapping[str, Any] | None:
        """The transformer's own config.json, or None while the checkpoint is not on disk."""
        source = model.components[component]
        folder = self._local_folder(source) or self._cached_folder(component, source)
        if folder is None or not (folder / "config.json").is_file():
            return None
        return _read_json(folder / "config.json", f"{source.repo}/{source.subfolder}/config.json")

    def identity(self, model: WanModel, names: Collection[str] | None = None) -> list[dict[str, str | None]]:
        """Which files a model's are (`names`: of these components), JSON-ready: by repository its `revision`, `files`.

        `revision` is the hub's commit, None for a folder under `models_dir`. `files` is a SHA-256 over the names and
        sizes of all files that are read and the contents of the small JSON ones among them: the same on every machine,
        without reading weights. Raises CheckpointNotFound or CheckpointIncomplete.
        """
        by_repo: dict[str, list[Component]] = {}
        for name, source in model.components.items():
            if names is not None and name not in names:
                continue
            by_repo.setdefault(source.repo, []).append(self.component(model, name))
        return [
            {"repo": repo, "revision": self._revision(repo, parts[0]), "files": _files_digest(parts)}
            for repo, parts in sorted(by_repo.items())
        ]

    def _revision(self, repo: str, component: Component) -> str | None:
        if self._models_dir is not None and (self._models_dir / repo).is_dir():
            return None
        parts = component.folder.parts[::-1]  # …/snapshots/<commit>/<subfolder>
        return parts[parts.index("snapshots") - 1] if "snapshots" in parts[1:] else None

    def present(self, model: WanModel) -> bool:
        """Whether all of the model's files are on disk, complete."""
        try:
            for name in model.components:
                self.component(model, name)
        except (CheckpointNotFound, CheckpointIncomplete):
            return False
        return True

    def same_files(self, one: Component, other: Component) -> bool:
        """Whether two components have the same bytes: same real path or hub blob, else equal SHA-256."""
        if len(one.files) != len(other.files) or _from_config(one) != _from_config(other):
            return False
        return all(self._same_file(a, b) for a, b in zip(one.files, other.files, strict=True))

    def _same_file(self, a: Path, b: Path) -> bool:
        if a.name != b.name or a.stat().st_size != b.stat().st_size:
            return False
        return a.resolve() == b.resolve() or self.digest(a) == self.digest(b)

    def known_same(self, one: Component, other: Component) -> bool:
        """Whether two components are known to have the same bytes; False where files would have to be read to know."""
        names = [[file.name for file in part.files] for part in (one, other)]
        return (
            _from_config(one) == _from_config(other)
            and names[0] == names[1]
            and all(
                a.resolve() == b.resolve() or (self._known(a) is not None and self._known(a) == self._known(b))
                for a, b in zip(one.files, other.files, strict=True)
            )
        )

    def digest(self, path: Path) -> str:
        """SHA-256 of a file, cached by real path, size and modification time; a hub blob's name is its digest."""
        known = self._known(path)
        if known is None:
            with path.open("rb") as file:
                known = self._digests[_version(path.resolve())] = hashlib.file_digest(file, "sha256").hexdigest()
        return known

    def _known(self, path: Path) -> str | None:
        """The file's SHA-256 where it is known without reading the file, else None."""
        real = path.resolve()
        if real.parent.name == "blobs" and len(real.name) == 64:
            return real.name
        return self._digests.get(_version(real))

    def _local_folder(self, source: Source) -> Path | None:
        if self._models_dir is None:
            return None
        repo = self._models_dir / source.repo
        return repo / source.subfolder if repo.is_dir() else None

    def _cached_folder(self, name: str, source: Source) -> Path | None:
        try:
            root = huggingface_hub.snapshot_download(
                source.repo, allow_patterns=_wanted_patterns(name, source.subfolder), local_files_only=True
            )
        except (LocalEntryNotFoundError, FileNotFoundError):
            return None
        folder = Path(str(root)) / source.subfolder
        return folder if folder.is_dir() else None

    def _is_cached(self, name: str, source: Source) -> bool:
        folder = self._cached_folder(name, source)
        if folder is None:
            return False
        try:
            self._checked(name, source, folder)
        except CheckpointIncomplete:
            return False
        return True

    def _checked(self, name: str, source: Source, folder: Path) -> Component:
        shown = "/".join(part for part in (source.repo, source.subfolder) if part)

        if not folder.is_dir() and has_original_layout(folder.parent):
            raise CheckpointInvalid(
                f"The folder {source.repo} holds files in Wan's original layout. The repository {source.repo} in "
                "diffusers layout is needed there: it has a folder for each component.",
                file=shown,
            )

        def need(file: str) -> Path:
            path = folder / file
            if not path.is_file():
                raise CheckpointIncomplete(
                    f"The checkpoint is incomplete: {shown}/{file} is missing. Copy or download it again.",
                    file=f"{shown}/{file}",
                )
            return path

        if name in _WEIGHTS:
            stem = _WEIGHTS[name]
            files = [need("config.json")]
            index = folder / f"{stem}.safetensors.index.json"
            if index.is_file():
                shards = _shards(_read_json(index, f"{shown}/{index.name}"), f"{shown}/{index.name}")
                files += [index, *(need(shard) for shard in shards)]
            else:
                files.append(need(f"{stem}.safetensors"))
        elif name == "tokenizer":
            files = [need(_CONFIGS[name])]
            if not any((folder / vocabulary).is_file() for vocabulary in _TOKENIZER_VOCABULARIES):
                need(_TOKENIZER_VOCABULARIES[0])
            files += [folder / file for file in _TOKENIZER_FILES if (folder / file).is_file()]
        else:
            files = [need(_CONFIGS[name])]
        return Component(name, folder, tuple(files))

    def _download(self, missing: Mapping[str, Source], on_progress: OnProgress) -> None:
        patterns: dict[str, list[str]] = {}
        for name, source in missing.items():
            patterns.setdefault(source.repo, []).extend(_wanted_patterns(name, source.subfolder))
        if self._offline:
            repo = next(iter(patterns))
            raise CheckpointNotFound(f"The checkpoint {repo} is not on this machine.", repo=repo)
        on_progress(Progress("checking", note=f"Asking the Hugging Face hub for {', '.join(patterns)}"))
        total = sum(self._missing_bytes(repo, wanted) for repo, wanted in patterns.items())
        cache = Path(huggingface_hub.constants.HF_HUB_CACHE)
        free = free_bytes(_existing(cache))
        note = f"{gigabytes(total)} to download, {gigabytes(free)} free on disk"
        on_progress(Progress("downloading", bytes_total=total, note=note))
        if total + DISK_RESERVE > free:
            raise DiskFull(
                f"The checkpoint needs {gigabytes(total)} and the Hugging Face cache has {gigabytes(free)} free. "
                "Free some disk space, or set HF_HOME to a larger disk.",
                needed=total,
                free=free,
            )
        counter = _DownloadCounter(total, note, on_progress)
        for repo, wanted in patterns.items():
            with _download_errors(repo):
                huggingface_hub.snapshot_download(repo, allow_patterns=wanted, tqdm_class=counter.bar_class())
        on_progress(Progress("downloading", bytes_done=total, bytes_total=total, note=note))

    def _missing_bytes(self, repo: str, wanted: list[str]) -> int:
        with _download_errors(repo):
            plan = huggingface_hub.snapshot_download(
                repo,
                allow_patterns=wanted,
                dry_run=True,
                tqdm_class=_DownloadCounter(0, "", ignore_progress).bar_class(),
            )
        return sum(file.file_size or 0 for file in plan if file.will_download)


class _DownloadCounter:
    """Sums the bytes of several progress bars of the hub's client, and reports them. Reports may raise Cancelled."""

    def __init__(self, total: int, note: str, on_progress: OnProgress) -> None:
        self._total, self._note, self._on_progress, self._done = total, note, on_progress, 0

    def add(self, amount: float) -> None:
        """Counts and reports bytes written to disk."""
        self._done += int(amount)
        self._on_progress(
            Progress("downloading", bytes_done=min(self._done, self._total), bytes_total=self._total, note=self._note)
        )

    def bar_class(self) -> type[tqdm[Any]]:
        """A progress bar for the hub's client that shows nothing and counts here."""
        add: Callable[[float], None] = self.add

        class Bar(tqdm):  # type: ignore[type-arg]
            """Of the client's bars only the one of bytes written to disk counts, not those of files or network."""

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                kwargs["disable"] = True
                self._counts_bytes = str(kwargs.get("desc", "")).startswith("Reconstructing")
                super().__init__(*args, **kwargs)

            def update(self, n: float | None = 1) -> bool | None:
                """Counts `n` more bytes."""
                if self._counts_bytes:
                    add(n or 0)
                return super().update(n)

        return Bar


@contextmanager
def _download_errors(repo: str) -> Iterator[None]:
    """Maps failed downloads to CheckpointNotFound, or DiskFull."""
    offline = (
        f"{repo} is not on this machine and the Hugging Face hub does not answer. Put the checkpoint under the models "
        "folder, or try again once the hub can be reached."
    )
    try:
        with disk_full_mapped(repo), hub_errors(partial(CheckpointNotFound, repo=repo), repo, offline=offline):
            yield
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO)
        raise CheckpointNotFound(f"{repo} could not be downloaded: {reason}.", repo=repo) from error


def _version(path: Path) -> tuple[str, int, int]:
    """What changes when a file is replaced or written to: path, size and modification time."""
    stat = path.stat()
    return (str(path), stat.st_size, stat.st_mtime_ns)


def _files_digest(components: Iterable[Component]) -> str:
    """SHA-256 over names and sizes of all files, and the contents of small JSON files."""
    digest = hashlib.sha256()
    for component in sorted(components, key=lambda component: component.name):
        for file in component.files:
            size = file.stat().st_size
            digest.update(f"{component.name}/{file.name}\n{size}\n".encode())
            if file.suffix == ".json" and size <= LARGEST_CONFIG:
                digest.update(file.read_bytes())
    return digest.hexdigest()


def _from_config(component: Component) -> tuple[str, Mapping[str, Any]] | None:
    """What makes two single files of equal bytes different components: the kind and the config that is in force."""
    single = component.single
    return None if single is None else (single.kind, dict(single.config))


def _shards(index: Mapping[str, Any], shown: str) -> list[str]:
    """The file names that an index lists, in order. Raises CheckpointIncomplete for an index that lists none."""
    weight_map = index.get("weight_map")
    listed = list(weight_map.values()) if isinstance(weight_map, dict) else []
    names = {name for name in listed if isinstance(name, str) and Path(name).name == name}
    if not names or not all(isinstance(name, str) and name in names for name in listed):
        raise CheckpointIncomplete(f"{shown} lists no files. Copy or download it again.", file=shown)
    return sorted(names)


def has_original_layout(folder: Path) -> bool:
    """Whether a folder is a repository of Wan's own: weights at its top, and no folder for a transformer."""
    marks = ("models_t5_umt5-xxl-enc-bf16.pth", "Wan2.1_VAE.pth", "Wan2.2_VAE.pth", "high_noise_model")
    return not (folder / "transformer").is_dir() and (
        any((folder / name).exists() for name in marks) or any(folder.glob("diffusion_pytorch_model*.safetensors"))
    )


def _existing(path: Path) -> Path:
    """The nearest ancestor that exists, for asking about its disk."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
