"""The single checkpoint files at hand: what each is, or why it cannot be used, from headers that are read once.

`Catalog.scan` looks through a ComfyUI folder and the models folder. Headers are remembered by path, size and time, so
that a second look costs a listing. What neither header nor name tells is asked once; the answer is kept by the file's
fingerprint, so that it holds after a move or a new name.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from wan_ui.checkpoints.comfy import PICKLE_ENDINGS, SHARD, FoundFile, find_folders, list_files
from wan_ui.checkpoints.configs import ModelConfigs
from wan_ui.checkpoints.detection import Candidate, Detected, detect
from wan_ui.checkpoints.headers import FileHeader, read_header
from wan_ui.checkpoints.quantization import Quantization, read_quantization
from wan_ui.errors import CheckpointUnsupported, HostError, WanUIError
from wan_ui.files import write_file
from wan_ui.lora.hash_cache import file_mark
from wan_ui.models import MODELS

log = logging.getLogger(__name__)

Origin = Literal["comfy", "models"]

ANSWERS = "checkpoint_answers.json"  # in the data folder
SAMPLES = 16  # places at which a fingerprint reads a file
SAMPLE_BYTES = 64 << 10  # bytes at each


@dataclass(frozen=True)
class ModelFile:
    """A checkpoint file: its name as people see it, and what it is, or the error that says why it cannot be used.

    `origin` is the folder that the name is relative to: a ComfyUI category folder, or the models folder.
    """

    name: str
    path: Path
    origin: Origin
    size: int
    header: FileHeader | None
    quantization: Quantization | None
    detected: Detected | None
    problem: WanUIError | None

    def may_be(self, candidate: Candidate) -> bool:
        """Whether header and name allow the file to be this component of this model."""
        return self.detected is not None and candidate in self.detected.candidates

    def is_shaped_like(self, candidate: Candidate) -> bool:
        """Whether the header allows it, whatever the name says."""
        return self.detected is not None and candidate in self.detected.shapes_like


@dataclass(frozen=True)
class Listing:
    """All files of a scan in order, and remarks on folders."""

    files: tuple[ModelFile, ...]
    notes: tuple[str, ...] = ()


class Answers:
    """What users said that files are, by the files' fingerprints; kept in `file`, or in memory alone."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[str, str]] = {}
        self._read_at: int | None = None

    def get(self, fingerprint: str) -> Candidate | None:
        """The answer given for a file, if any; another object may have written it meanwhile."""
        with self._lock:
            self._refresh()
            found = self._kept.get(fingerprint)
        return None if found is None else Candidate(*found)

    def _refresh(self) -> None:
        try:
            written = None if self._file is None else self._file.stat().st_mtime_ns
        except OSError:
            written = None
        if written != self._read_at:
            self._kept, self._read_at = _read_answers(self._file), written

    def keep(self, fingerprint: str, candidate: Candidate) -> None:
        """Remembers an answer. Raises OSError where it cannot be written."""
        with self._lock:
            self._refresh()
            self._kept[fingerprint] = (candidate.model, candidate.component)
            if self._file is not None:
                write_file(self._file, json.dumps(self._kept, sort_keys=True).encode())

    @property
    def is_empty(self) -> bool:
        """Whether nothing was answered yet, so that no file needs a fingerprint."""
        with self._lock:
            self._refresh()
            return not self._kept


def _read_answers(file: Path | None) -> dict[str, tuple[str, str]]:
    try:
        listed = {} if file is None else json.loads(file.read_bytes())
        return {
            str(fingerprint): (str(model), str(component))
            for fingerprint, (model, component) in listed.items()
            if model in MODELS
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError):
        log.warning("the kept answers about checkpoint files cannot be read and are asked again")
        return {}


def fingerprint(header: FileHeader) -> str:
    """A SHA-256 over a file's size and samples of its bytes, header included: a megabyte is read of any file.

    The two halves of a pair have equal headers and sizes and differ in every weight, so samples tell them apart; the
    whole of a 28 GB file would take minutes to hash.
    """
    digest = hashlib.sha256(str(header.size).encode())
    with header.path.open("rb") as file:
        for sample in range(SAMPLES):
            file.seek(max(0, (header.size - SAMPLE_BYTES) * sample // (SAMPLES - 1)))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


class Catalog:
    """Looks through the folders of single files. Any thread may call any method."""

    def __init__(
        self,
        configs: ModelConfigs,
        comfy_dir: Path | None = None,
        models_dir: Path | None = None,
        answers: Answers | None = None,
    ) -> None:
        self._configs = configs
        self._comfy_dir = comfy_dir
        self._models_dir = models_dir
        self._answers = answers or Answers()
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Any, ModelFile]] = {}

    def scan(self) -> Listing:
        """All checkpoint files at hand, the unusable ones with their reason. LoRAs are not among them."""
        found, notes = self._find()
        with self._lock:
            files = tuple(self._described(item, origin) for item, origin in found)
            here = {str(file.path) for file in files}
            self._known = {path: known for path, known in self._known.items() if path in here}
        return Listing(files, notes)

    def answer(self, file: ModelFile, candidate: Candidate) -> None:
        """Keeps what the user said that a file is. Raises OSError where it cannot be written."""
        if file.header is not None:
            self._answers.keep(fingerprint(file.header), candidate)

    def lora_folders(self) -> tuple[Path, ...]:
        """The `loras` folders of the ComfyUI installation."""
        return () if self._comfy_dir is None else find_folders(self._comfy_dir).by_category.get("loras", ())

    def _find(self) -> tuple[list[tuple[FoundFile, Origin]], tuple[str, ...]]:
        found: list[tuple[FoundFile, Origin]] = []
        notes: tuple[str, ...] = ()
        if self._comfy_dir is not None:
            folders = find_folders(self._comfy_dir)
            notes = folders.notes
            for category, places in folders.by_category.items():
                if category != "loras":
                    found += [(file, "comfy") for file in list_files(places)]
        if self._models_dir is not None and self._models_dir.is_dir():
            skip = [path for path in (*component_folders(self._models_dir), self._comfy_dir) if path is not None]
            found += [(file, "models") for file in list_files([self._models_dir], skip)]
        return found, notes

    def _described(self, found: FoundFile, origin: Origin) -> ModelFile:
        key = str(found.path)
        try:
            now = file_mark(found.path.stat())
        except OSError:
            now = None
        known = self._known.get(key)
        if known is None or known[0] != now or known[1].name != found.name:
            known = (now, describe(found, origin, self._configs))
            self._known[key] = known
        return self._with_answer(known[1])

    def _with_answer(self, file: ModelFile) -> ModelFile:
        if file.detected is None or file.header is None or not file.detected.is_open or self._answers.is_empty:
            return file
        answer = self._answers.get(fingerprint(file.header))
        if answer is None or answer not in file.detected.shapes_like:
            return file
        return replace(file, detected=replace(file.detected, candidates=frozenset({answer})))


def component_folders(models_dir: Path) -> Iterable[Path]:
    """The folders under the models folder that hold components in diffusers' layout."""
    for model in MODELS.values():
        for source in model.components.values():
            folder = models_dir / source.repo / source.subfolder
            if source.subfolder or (folder / "config.json").is_file():
                yield folder


def describe(found: FoundFile, origin: Origin, configs: ModelConfigs) -> ModelFile:
    """What a file is, from its header and name; whatever is wrong with it is in `problem`."""
    header: FileHeader | None = None
    quantization: Quantization | None = None
    detected: Detected | None = None
    problem: WanUIError | None = None
    try:
        size = found.path.stat().st_size
    except OSError:
        size = 0
    try:
        _check_ending(found)
        header = read_header(found.path, found.name)
        quantization = read_quantization(header)
        detected = detect(header, quantization, found.name, configs)
    except HostError as error:
        problem = error
    return ModelFile(found.name, found.path, origin, size, header, quantization, detected, problem)


def _check_ending(found: FoundFile) -> None:
    """Raises CheckpointUnsupported for pickles, which are never opened, and for parts of a sharded checkpoint."""
    if SHARD.search(found.name):
        raise CheckpointUnsupported(
            f"{found.name} is one part of a checkpoint in several files. Use the repository in diffusers format, or "
            "the single file that ComfyUI uses.",
            file=found.name,
            format="shard",
        )
    if found.name.lower().endswith(PICKLE_ENDINGS):
        raise CheckpointUnsupported(
            f"{found.name} is a PyTorch pickle. Pickles can run code and are not opened. Use the same weights as a "
            ".safetensors file.",
            file=found.name,
            format="pickle",
        )
