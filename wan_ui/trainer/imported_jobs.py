"""Imported training jobs and previews, kept in one folder: their requests, checkpoints and sample files by id."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from wan_ui.access import LOCAL_ACCESS, NO_FILE_OWNERS, Access, FileOwners, UploadedFiles
from wan_ui.errors import (
    ControlImageInvalid,
    DiskFull,
    JobConfigInvalid,
    LoraInvalid,
    LoraNotFound,
    PayloadTooLarge,
    PreviewNotFound,
)
from wan_ui.files import PART_PREFIX, is_disk_full, publish_file, remove_parts, write_file
from wan_ui.lora.header import LoraHeader
from wan_ui.models import MODELS
from wan_ui.request import InferenceRequest, LoraItem, TrainingSample
from wan_ui.text import one_line
from wan_ui.trainer.checklist import Target
from wan_ui.trainer.folder import JobFolder, Limits, SampleFile, locate_folder, read_folder, unpack
from wan_ui.trainer.job import Imported, import_job, not_here
from wan_ui.trainer.safe_yaml import LARGEST_TEXT
from wan_ui.trainer.sample_files import SampleFacts, decode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wan_ui.lora.library import Library
    from wan_ui.media.image import ImageStore

RECORD, CONFIG, FILES = "job.json", "config.yaml", "files"
PREVIEWS, LINKS = "previews", "links"
THUMBNAIL_SIDE = 320  # pixels
LIMITS = Limits()
MOST_CACHED = 64  # jobs and preview facts kept at hand
MEDIA_TYPES: Mapping[str, str] = MappingProxyType(
    {"WEBP": "image/webp", "GIF": "image/gif", "PNG": "image/png", "JPEG": "image/jpeg", "MP4": "video/mp4"}
)
_ID = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SAMPLE_NAME = re.compile(r"[0-9]{1,20}__[0-9]{9}_[0-9]{1,6}\.[a-z0-9]+")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as LoRA sources for a request, by side: "high" and "low", or "whole". `step` None: the final one.

    `trained` is the step that its own metadata names.
    """

    name: str
    step: int | None
    files: Mapping[str, str]
    trained: int | None

    @property
    def key(self) -> str:
        return "final" if self.step is None else str(self.step)

    @property
    def label(self) -> str:
        """step 500; final (step 2000)."""
        known = f" (step {self.trained})" if self.trained is not None else ""
        half = f", {next(iter(self.files))} only" if len(self.files) == 1 and "whole" not in self.files else ""
        return (f"final{known}" if self.step is None else f"step {self.step}") + half


@dataclass(frozen=True)
class ImportedJob:
    """An imported job. `saves` by step, the final one last; `samples` are its sample files; `notes` for the user."""

    id: str
    origin: str
    config: bytes
    imported: Imported
    saves: tuple[Checkpoint, ...]
    samples: tuple[SampleFile, ...]
    images: Mapping[str, str]
    notes: tuple[str, ...]

    def save(self, key: str | None) -> Checkpoint | None:
        """A save by its key, "final" or its step; None: the last one, if there is any."""
        if key is None:
            return self.saves[-1] if self.saves else None
        return next((one for one in self.saves if one.key == key), None)

    def save_at(self, step: int | None) -> Checkpoint | None:
        """The save that a sample of a step was made with, or else the nearest; None at step 0, before any training."""
        if step == 0 or not self.saves:
            return None
        if step is None:
            return self.saves[-1]
        exact = [one for one in self.saves if step in (one.step, one.trained)]
        last = max((one.step for one in self.saves if one.step is not None), default=0)
        final = [one for one in self.saves if one.step is None and one.trained is None and step > last]
        return (exact or final or [min(self.saves, key=lambda one: _distance(one, step))])[0]


def _distance(save: Checkpoint, step: int) -> int:
    at = save.step if save.step is not None else save.trained
    return 10**9 if at is None else abs(at - step)


def _ample() -> None:
    """Where nobody limits what is kept."""


class ImportedJobs:
    """Jobs in `<folder>/<id>/`, uploaded previews in `<folder>/previews/<sha256>`. Safe to use from several threads.

    `library` takes a ZIP's checkpoints as uploads, `images` its first frames. A folder under the LoRA folder is read
    where it is. Every imported job is read by its random id; `owners` records who uploaded the files in it.
    """

    def __init__(
        self,
        folder: Path,
        library: Library,
        images: ImageStore,
        limits: Limits = LIMITS,
        check_quota: Callable[[], None] = _ample,
        owners: FileOwners = NO_FILE_OWNERS,
    ) -> None:
        self._folder = folder
        self._check_room = check_quota
        self._owned = UploadedFiles(owners, "image")
        self._library = library
        self._images = images
        self._limits = limits
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, ImportedJob] = OrderedDict()
        self._attached: OrderedDict[tuple[str, str], Imported] = OrderedDict()
        self._facts: OrderedDict[tuple[str, int, int], SampleFacts] = OrderedDict()

    def sweep(self) -> None:
        """Removes what a killed process left half taken in. Only for a process that alone holds the folder."""
        for folder in (self._folder, self._folder / PREVIEWS, self._folder / LINKS):
            remove_parts(folder)

    # Taking in

    def take_file(self, path: Path, name: str, access: Access) -> ImportedJob:
        """A config.yaml, or a ZIP of a job's folder; told apart by content. `path` stays where it is.

        Raises JobConfigInvalid, PayloadTooLarge or DiskFull, and leaves nothing behind then.
        """
        with path.open("rb") as file:
            start = file.read(LARGEST_TEXT + 1)
        if start[:2] != b"PK":
            return self.take_config(start, one_line(name, 120))
        with self._staged() as stage:
            job = unpack(path, stage / FILES, self._limits)
            return self._keep(stage, job, one_line(name, 120), access, moves=True)

    def take_config(self, text: bytes, origin: str = "config.yaml", loras: Sequence[LoraItem] = ()) -> ImportedJob:
        """A config alone; `loras` are the files for its requests. Raises JobConfigInvalid or DiskFull."""
        import_job(text)  # before anything is written
        saves: tuple[Checkpoint, ...] = ()
        if loras:
            files: dict[str, str] = {item.transformer or "whole": item.path for item in loras}
            saves = (Checkpoint("LoRA", None, MappingProxyType(files), self._trained(tuple(files.values()))),)
        with self._staged() as stage:
            return self._publish(stage, text, {"origin": origin, "saves": [_save_body(one) for one in saves]})

    def take_files(self, files: Sequence[tuple[Path, str]], access: Access) -> ImportedJob:
        """Files that were dropped together, with their names: a config or a ZIP, and LoRA files and samples beside it.

        The LoRA files are moved. Raises JobConfigInvalid, PayloadTooLarge or DiskFull.
        """
        if len(files) == 1:
            return self.take_file(*files[0], access)
        with self._staged() as stage:
            root = stage / FILES
            root.mkdir()
            zips = [path for path, name in files if name.lower().endswith(".zip")]
            if len(zips) > 1:
                raise _invalid("there are several ZIPs: give those of one job")
            if zips:
                shutil.rmtree(root)
                root = unpack(zips[0], root, self._limits).root
            for path, name in files:
                if path in zips:
                    continue
                kept = re.split(r"[/\\]", name)[-1]
                if not kept or kept.startswith(".") and kept != ".job_config.json" or len(kept.encode()) > 200:
                    raise _invalid(f"{one_line(name, 80) or 'a file'} is no file of a job")
                target = root / "samples" / kept if _SAMPLE_NAME.fullmatch(kept.lower()) else root / kept
                target.parent.mkdir(exist_ok=True)
                with _disk_said():
                    shutil.move(path, target)
            return self._keep(stage, read_folder(root), f"{len(files)} files", access, moves=True)

    def take_folder(self, source: str, access: Access) -> ImportedJob:
        """A folder under the LoRA folder, read where it is. Raises JobConfigInvalid or PayloadTooLarge."""
        found = read_folder(locate_folder(source, self._library.lora_dir), self._library.lora_dir)
        with self._staged() as stage:
            return self._keep(stage, found, source, access, moves=False)

    def take_preview(self, path: Path, access: Access) -> str:
        """Keeps a preview's file and returns its SHA-256; `path` is moved.

        Raises InvalidRequest for a file that is no preview, PayloadTooLarge, DiskFull.
        """
        self._check_room()
        decode(path)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        target = self._folder / PREVIEWS / sha256
        with _disk_said():
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                # A copy within the folder first: the sender's may be on another disk.
                part = target.with_name(f"{PART_PREFIX}{secrets.token_hex(8)}")
                try:
                    shutil.move(path, part)
                    publish_file(part, target)
                finally:
                    part.unlink(missing_ok=True)
        self._owned.record_owner(sha256, access)
        return sha256

    def link(self, request_id: str, index: int, sha256: str) -> None:
        """Remembers the uploaded preview that a result's clip is compared with, in place of another."""
        path = self._link(request_id, index)
        with _disk_said():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, sha256.encode("ascii"))

    def unlink(self, request_id: str, index: int) -> None:
        """Forgets that preview, and its file too where no other clip is compared with it. Raises OSError."""
        sha256 = self.linked(request_id, index)
        self._link(request_id, index).unlink(missing_ok=True)
        links = (self._folder / LINKS).glob("*-*")
        if sha256 is not None and not any(_text(one) == sha256 for one in links):
            (self._folder / PREVIEWS / sha256).unlink(missing_ok=True)

    def linked(self, request_id: str, index: int) -> str | None:
        """The SHA-256 of that preview, or None."""
        try:
            found = self._link(request_id, index).read_text("ascii")
        except FileNotFoundError:
            return None
        return found if _SHA256.fullmatch(found) else None

    def _link(self, request_id: str, index: int) -> Path:
        if not _ID.fullmatch(request_id):
            raise PreviewNotFound("There is no request with this id.")
        return self._folder / LINKS / f"{request_id}-{index}"

    # Reading

    def job(self, job_id: str) -> ImportedJob:
        """An imported job. Raises PreviewNotFound for one that is not here, or not any more."""
        with self._lock:
            if job_id in self._jobs:
                self._jobs.move_to_end(job_id)
                return self._jobs[job_id]
        folder = self._folder / job_id
        try:
            if not _ID.fullmatch(job_id):
                raise FileNotFoundError
            record = json.loads((folder / RECORD).read_text("utf-8"))
            text = (folder / CONFIG).read_bytes()
        except FileNotFoundError as error:
            raise PreviewNotFound("This training job is not here, or not any more: import it again.") from error
        found = self._read(job_id, text, record)
        with self._lock:
            self._jobs[job_id] = found
            while len(self._jobs) > MOST_CACHED:
                self._jobs.popitem(last=False)
        return found

    def _read(self, job_id: str, text: bytes, record: Mapping[str, Any]) -> ImportedJob:
        saves = tuple(
            Checkpoint(one["name"], one["step"], MappingProxyType(one["files"]), one["trained"])
            for one in record["saves"]
        )
        images = record.get("images", {})
        imported = self._import(text, saves[-1] if saves else None, images)
        return ImportedJob(
            job_id,
            record["origin"],
            text,
            imported,
            saves,
            tuple(
                SampleFile(one["step"], one["index"], self._folder / job_id / one["path"])
                for one in record.get("samples", ())
            ),
            MappingProxyType(images),
            tuple(record.get("notes", ())),
        )

    def wearing(self, job: ImportedJob, save: Checkpoint | None) -> Imported:
        """The job with the LoRA files of a save in its requests; without a save, of the base model."""
        key = (job.id, "" if save is None else save.key)
        with self._lock:
            if key in self._attached:
                return self._attached[key]
        found = self._import(job.config, save, job.images)
        if save is None and job.saves:
            # Before training there is no file to say the era; the job's other files do.
            known = self._import(job.config, job.saves[-1], job.images)
            found = replace(
                known,
                samples=tuple(
                    replace(one, request=one.request.model_copy(update={"loras": ()})) for one in known.samples
                ),
            )
        with self._lock:
            self._attached[key] = found
            while len(self._attached) > MOST_CACHED:
                self._attached.popitem(last=False)
        return found

    def request(
        self, job: ImportedJob, index: int, save: Checkpoint | None, step: int | None = None
    ) -> InferenceRequest:
        """One of the job's samples as a request that says what it is compared with. Raises PreviewNotFound."""
        imported = self.wearing(job, save)
        sample = next((one for one in imported.samples if one.index == index), None)
        if sample is None:
            raise PreviewNotFound(f"This job has no sample {index + 1} that can be rendered.")
        if step is None and save is not None:
            step = save.step if save.step is not None else save.trained
        compared = TrainingSample.model_validate({"job": job.id, "sample": index, "step": step})
        item = sample.request.prompts[0].model_copy(update={"training_sample": compared})
        return sample.request.model_copy(update={"prompts": (item,)})

    def target(self, wanted: TrainingSample) -> Target | None:
        """The preview that a request names, without its file's facts; None where it names a file alone.

        Raises PreviewNotFound for a job, or a sample of one, that is not here.
        """
        if wanted.job is None:
            return None
        job = self.job(wanted.job)
        imported = self.wearing(job, job.save_at(wanted.step))
        sample = next((one for one in imported.samples if one.index == wanted.sample), None)
        if sample is None:
            raise PreviewNotFound("The training job has no such sample.")
        return Target(imported, sample, wanted.step)

    def check(self, wanted: TrainingSample, access: Access) -> None:
        """Raises PreviewNotFound when what a request is to be compared with is not here or not the caller's to use."""
        if wanted.job is None and wanted.file is None:
            raise PreviewNotFound("A training sample names a job and its sample, or a file.")
        self.target(wanted)
        if wanted.file is None:
            return
        if not (self._folder / PREVIEWS / wanted.file).is_file() or not self._owned.may_use(wanted.file, access):
            raise PreviewNotFound("This preview is not here, or not any more: upload it again.")

    def preview_file(self, wanted: TrainingSample | None, sha256: str | None = None) -> Path | None:
        """The file of a preview: the uploaded one, else the one in the job's folder; None: there is none."""
        chosen = sha256 or (wanted.file if wanted is not None else None)
        if chosen is not None:
            path = self._folder / PREVIEWS / chosen
            return path if path.is_file() else None
        if wanted is None or wanted.job is None or wanted.step is None or wanted.sample is None:
            return None
        try:
            return self.sample_file(self.job(wanted.job), wanted.step, wanted.sample)
        except PreviewNotFound:
            return None

    def sample_file(self, job: ImportedJob, step: int, index: int) -> Path:
        """A sample file's path. Raises PreviewNotFound."""
        found = next((one.path for one in job.samples if (one.step, one.index) == (step, index)), None)
        # Again at each use: in a folder under the LoRA folder, a file may have become a link since.
        roots = (self._folder.resolve(), self._library.lora_dir.resolve())
        path = None if found is None else found.resolve()
        if path is None or not path.is_file() or not any(path.is_relative_to(root) for root in roots):
            raise PreviewNotFound("This job has no such sample file, or not any more.")
        return path

    def facts(self, path: Path) -> SampleFacts:
        """What a preview's file says of itself. Raises what decode raises."""
        state = path.stat()
        key = (str(path), state.st_size, state.st_mtime_ns)
        with self._lock:
            if key in self._facts:
                return self._facts[key]
        found = decode(path).facts
        with self._lock:
            self._facts[key] = found
            while len(self._facts) > MOST_CACHED:
                self._facts.popitem(last=False)
        return found

    # Keeping

    @contextmanager
    def _staged(self) -> Iterator[Path]:
        """A folder that becomes a job's when it is whole, and is gone otherwise."""
        self._check_room()
        with _disk_said():
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=PART_PREFIX, dir=self._folder) as folder:
                yield Path(folder)

    def _keep(self, stage: Path, found: JobFolder, origin: str, access: Access, *, moves: bool) -> ImportedJob:
        """Keeps a folder's job; `moves`: its files are ours, so that its checkpoints become uploads."""
        import_job(found.config_text)  # before anything leaves the stage
        notes = list(found.messages)
        taken = (self._take_save(found, each, moves, notes, access) for each in found.checkpoints)
        saves = [one for one in taken if one]
        images: dict[str, str] = {}
        for path in self._wanted_images(found):
            try:
                images[str(path)] = self._images.put_bytes((found.root / path).read_bytes(), access)
            except (ControlImageInvalid, PayloadTooLarge) as error:
                notes.append(f"{one_line(path.name, 80)}: {error.message}")
        base = found.root.relative_to(stage) if moves else found.root
        record = {
            "origin": origin,
            "saves": [_save_body(one) for one in saves],
            "images": images,
            "samples": [{"step": one.step, "index": one.index, "path": str(base / one.path)} for one in found.samples],
            "notes": notes,
        }
        return self._publish(stage, found.config_text, record)

    def _wanted_images(self, found: JobFolder) -> list[Path]:
        """The pictures that the config's samples start from, as far as they are in the folder."""
        wanted: list[Path] = []

        def note(written: str) -> str | None:
            path = found.find_image(written)
            if path is not None:
                wanted.append(path)
            return None

        import_job(found.config_text, find_image=note)
        return list(dict.fromkeys(wanted))

    def _take_save(
        self, found: JobFolder, one: Any, moves: bool, notes: list[str], access: Access
    ) -> Checkpoint | None:
        files: dict[str, str] = {}
        for side, path in one.files.items():
            whole = found.root / path
            try:
                if moves:
                    files[side] = f"{self._library.add_upload(whole, path.name, access)}/{path.name}"
                else:
                    files[side] = whole.relative_to(self._library.lora_dir.resolve()).as_posix()
                    self._library.locate(files[side], LOCAL_ACCESS)  # a path, never an upload
            except (LoraInvalid, LoraNotFound) as error:
                files.pop(side, None)
                if moves:
                    whole.unlink(missing_ok=True)
                notes.append(f"{one_line(path.name, 120)} is passed over: {error.message}")
        if not files:
            return None
        return Checkpoint(one.name, one.step, MappingProxyType(files), self._trained(tuple(files.values())))

    def _trained(self, sources: Sequence[str]) -> int | None:
        return next((header.step for header in map(self._header, sources) if header is not None), None)

    def _header(self, source: str) -> LoraHeader | None:
        try:
            return self._library.locate(source, LOCAL_ACCESS).header
        except (LoraInvalid, LoraNotFound):
            return None  # an address that is not fetched yet; of a file that is gone, the submit says so

    def _publish(self, stage: Path, text: bytes, record: Mapping[str, Any]) -> ImportedJob:
        job_id = secrets.token_hex(16)
        target = self._folder / job_id
        write_file(stage / CONFIG, text)
        write_file(stage / RECORD, json.dumps(record).encode())
        target.mkdir()
        os.replace(stage, target)
        stage.mkdir()  # for the one who cleans it up
        return self.job(job_id)

    def _import(self, text: bytes, save: Checkpoint | None, images: Mapping[str, str]) -> Imported:
        header = None if save is None else next(filter(None, map(self._header, save.files.values())), None)
        plain = import_job(text, header=header)
        return import_job(text, _loras(plain, save, header), header, partial(_find, images) if images else not_here)


def _loras(job: Imported, save: Checkpoint | None, header: LoraHeader | None) -> tuple[LoraItem, ...]:
    """A save's files as a request for the job's model takes them."""
    if save is None:
        return ()
    two = MODELS[job.model].two_transformers
    items = []
    for side, source in save.files.items():
        slot: str | None = None
        if two and side == "whole":
            if header is not None and header.slot in ("high", "low"):
                slot = header.slot
            elif header is None or header.slot != "combined":
                slot = job.slots[0] if len(job.slots) == 1 else None
        elif two:
            slot = side
        items.append(LoraItem.model_validate({"path": source, "transformer": slot}))
    return tuple(items if two else items[:1])


def _find(images: Mapping[str, str], written: str) -> str | None:
    found = JobFolder(Path(), b"", (), (), tuple(map(Path, images))).find_image(written)
    return None if found is None else f"upload://{images[str(found)]}"


def _save_body(one: Checkpoint) -> dict[str, Any]:
    return {"name": one.name, "step": one.step, "files": dict(one.files), "trained": one.trained}


def _invalid(problem: str) -> JobConfigInvalid:
    return JobConfigInvalid(f"The job cannot be read: {problem}.", fields=[{"loc": "job", "msg": problem}])


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except FileNotFoundError:
        return ""  # unlinked meanwhile


@contextmanager
def _disk_said() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise DiskFull("There is no space left on the disk for this file. Free some space.") from error
        raise
