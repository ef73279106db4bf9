"""Stores imported training jobs and uploaded samples in one folder; gives their requests, checkpoints and files."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache

from wan_ui.access import LOCAL_ACCESS, Access, FileOwners, UploadedFiles
from wan_ui.errors import (
    ControlImageInvalid,
    JobConfigInvalid,
    JobNotWatchable,
    LoraInvalid,
    LoraNotFound,
    PayloadTooLarge,
    PreviewNotFound,
)
from wan_ui.files import PART_PREFIX, bytes_in, create_folder, disk_full_mapped, publish_file, remove_parts, write_file
from wan_ui.lora.header import LoraHeader
from wan_ui.lora.library import UPLOAD, below
from wan_ui.request import InferenceRequest, LoraItem, TrainingSample
from wan_ui.text import one_line
from wan_ui.trainer.checklist_rows import Target
from wan_ui.trainer.folder import (
    CheckpointFiles,
    JobFolder,
    Limits,
    SampleFile,
    check_kind,
    invalid,
    locate_folder,
    read_folder,
    unpack,
)
from wan_ui.trainer.imported_job import Checkpoint, ImportedJob, lora_items
from wan_ui.trainer.job import Imported, import_job, not_here
from wan_ui.trainer.safe_yaml import LARGEST_TEXT
from wan_ui.trainer.sample_files import SampleFacts, decode, thumbnail
from wan_ui.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wan_ui.lora.library import Library
    from wan_ui.media.image import ImageStore

RECORD, CONFIG, FILES = "job.json", "config.yaml", "files"
PREVIEWS, LINKS, THUMBNAILS = "previews", "links", "thumbnails"
DECODING_WAIT_SECONDS = 30.0  # for the sample that is being read: one at a time, each of hundreds of megabytes
LIMITS = Limits()
GUEST_LIMITS = Limits(entries=1_000, total_bytes=4 * 2**30)  # of a ZIP that a visitor sends
MOST_CACHED = 64  # jobs, their requests by checkpoint, and facts of sample files
_ID = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SAMPLE_NAME = re.compile(r"[0-9]{1,20}__[0-9]{9}_[0-9]{1,6}\.[a-z0-9]+")


def _no_quota(size: int = 0) -> None:
    """Default `check_quota`: no limit."""


class ImportedJobs:
    """Jobs in `<folder>/<id>/`, uploaded samples in `<folder>/previews/<sha256>`. Safe to use from several threads.

    `library` stores a ZIP's checkpoints as uploads, `images` its first frames. A folder under the LoRA folder is read
    where it is. Every imported job is read by its random id; `owners` records who uploaded the files in it.
    """

    def __init__(
        self,
        folder: Path,
        library: Library,
        images: ImageStore,
        limits: Limits = LIMITS,
        check_quota: Callable[[int], None] = _no_quota,
        owners: FileOwners | None = None,
    ) -> None:
        self._folder = folder
        self._check_quota = check_quota
        self._owned = UploadedFiles(owners, "image")
        self._library = library
        self._images = images
        self._limits = limits
        self._lock = threading.Lock()
        self._decoding = Turns(DECODING_WAIT_SECONDS, "Other samples are being read. Try again in a few seconds.")
        self._jobs: LRUCache[str, ImportedJob] = LRUCache(MOST_CACHED)
        self._by_checkpoint: LRUCache[tuple[str, str], Imported] = LRUCache(MOST_CACHED)
        self._facts: LRUCache[tuple[str, int, int], SampleFacts] = LRUCache(MOST_CACHED)

    def sweep(self) -> None:
        """Removes unfinished imports of a killed process. Only for a process that owns the folder."""
        for folder in (self._folder, self._folder / PREVIEWS, self._folder / LINKS, self._folder / THUMBNAILS):
            remove_parts(folder)

    # Importing

    def import_file(self, path: Path, name: str, access: Access) -> ImportedJob:
        """Imports a config.yaml or a ZIP of a job's folder, detected by content. `path` is not moved.

        Raises JobConfigInvalid, PayloadTooLarge or DiskFull, and leaves nothing behind then.
        """
        with path.open("rb") as file:
            start = file.read(LARGEST_TEXT + 1)
        check_kind(start)
        if start[:2] != b"PK":
            return self.import_config(start, one_line(name, 120), access=access)
        with self._staged() as stage:
            job = unpack(path, stage / FILES, self._limits_of(access), check_room=self._check_quota)
            return self._store(stage, job, one_line(name, 120), access, moves=True)

    def import_config(
        self,
        text: bytes,
        origin: str = "config.yaml",
        loras: Sequence[LoraItem] = (),
        access: Access = LOCAL_ACCESS,
    ) -> ImportedJob:
        """Imports a config alone; `loras` are the files for its requests. Raises JobConfigInvalid or DiskFull."""
        import_job(text)  # before anything is written
        checkpoints: tuple[Checkpoint, ...] = ()
        if loras:
            files: dict[str, str] = {item.transformer or "whole": item.path for item in loras}
            checkpoints = (Checkpoint("LoRA", None, MappingProxyType(files), self._trained(tuple(files.values()))),)
        with self._staged() as stage:
            record = {"origin": origin, "saves": [checkpoint.body() for checkpoint in checkpoints]}
            return self._publish(stage, text, record, access)

    def import_files(self, files: Sequence[tuple[Path, str]], access: Access) -> ImportedJob:
        """Imports files that were dropped together, with their names: a config or a ZIP, LoRA files and samples.

        The LoRA files are moved. Raises JobConfigInvalid, PayloadTooLarge or DiskFull.
        """
        if len(files) == 1:
            return self.import_file(*files[0], access)
        with self._staged() as stage:
            root = stage / FILES
            root.mkdir()
            loras = [name for _, name in files if name.lower().endswith(".safetensors")]
            if len(loras) == len(files):
                raise invalid("these are LoRA files. Choose them on the model's tab, or add their job's config.yaml")
            zips = [path for path, name in files if name.lower().endswith(".zip")]
            if len(zips) > 1:
                raise invalid("there are several ZIPs: import one job at a time")
            if zips:
                shutil.rmtree(root)
                root = unpack(zips[0], root, self._limits_of(access), check_room=self._check_quota).root
            for path, name in files:
                if path in zips:
                    continue
                base = re.split(r"[/\\]", name)[-1]
                if not base or (base.startswith(".") and base != ".job_config.json") or len(base.encode()) > 200:
                    raise invalid(f"{one_line(name, 80) or 'a file'} is not a file of a training job")
                target = root / "samples" / base if _SAMPLE_NAME.fullmatch(base.lower()) else root / base
                target.parent.mkdir(exist_ok=True)
                with disk_full_mapped("this file"):
                    shutil.move(path, target)
            return self._store(stage, read_folder(root), f"{len(files)} files", access, moves=True)

    def import_folder(self, source: str, access: Access) -> ImportedJob:
        """Imports a folder of the library, which stays there. Raises JobConfigInvalid or PayloadTooLarge."""
        folder, root = self._located(source)
        job = read_folder(folder, root)
        with self._staged() as stage:
            return self._store(stage, job, source, access, moves=False)

    def _limits_of(self, access: Access) -> Limits:
        return self._limits if access.identity.owner else GUEST_LIMITS

    def listing(self) -> tuple[tuple[str, str, int], ...]:
        """Each imported job: its id, its origin, and the bytes of its files."""
        try:
            folders = sorted(path for path in self._folder.iterdir() if _ID.fullmatch(path.name))
        except FileNotFoundError:
            return ()
        return tuple((folder.name, self._origin(folder), bytes_in(folder)) for folder in folders)

    def _origin(self, folder: Path) -> str:
        try:
            return one_line(str(json.loads((folder / RECORD).read_text("utf-8"))["origin"]), 120)
        except (OSError, ValueError, KeyError, TypeError):
            return ""  # a folder of another version, or deleted since it was listed

    def delete(self, job_id: str) -> tuple[str, ...]:
        """Removes an imported job, and returns the ids of the uploads that its checkpoints became.

        A job's folder under the LoRA folder stays. Raises PreviewNotFound and OSError.
        """
        job = self.job(job_id)
        with self._lock:
            self._jobs.pop(job_id, None)
        gone = self._folder / f"{PART_PREFIX}{job_id}"  # renamed first: never half there
        (self._folder / job_id).replace(gone)
        shutil.rmtree(gone)
        for picture in (self._folder / THUMBNAILS).glob(f"{job_id}-*"):
            picture.unlink(missing_ok=True)
        sources = [source for checkpoint in job.checkpoints for source in checkpoint.files.values()]
        return tuple(source.removeprefix(UPLOAD).split("/")[0] for source in sources if source.startswith(UPLOAD))

    def _located(self, source: str) -> tuple[Path, Path]:
        """A job's folder and the folder of the library that it is in. Raises JobConfigInvalid."""
        (_, lora_dir), *others = self._library.roots()
        try:
            return locate_folder(source, lora_dir), lora_dir
        except JobConfigInvalid:
            for prefix, root in others:
                rest = below(prefix, source)
                if rest is not None and (root / rest).is_dir():
                    return locate_folder(rest, root), root
            raise

    def store_sample(self, path: Path, access: Access) -> str:
        """Stores an uploaded sample file and returns its SHA-256; `path` is moved.

        Raises InvalidRequest for a file that is not a sample, PayloadTooLarge, DiskFull.
        """
        self._check_quota(path.stat().st_size)
        with self._decoding.hold():
            decode(path)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        target = self._folder / PREVIEWS / sha256
        with disk_full_mapped("this file"):
            create_folder(target.parent)
            if not target.exists():
                # A copy within the folder first: the upload may be on another disk.
                part = target.with_name(f"{PART_PREFIX}{secrets.token_hex(8)}")
                try:
                    shutil.move(path, part)
                    publish_file(part, target)
                finally:
                    part.unlink(missing_ok=True)
        self._owned.record_owner(sha256, access)
        return sha256

    def link(self, request_id: str, index: int, sha256: str) -> None:
        """Records the uploaded sample that a result's video is compared with, in place of another."""
        path = self._link(request_id, index)
        with disk_full_mapped("this file"):
            create_folder(path.parent)
            write_file(path, sha256.encode("ascii"))

    def unlink(self, request_id: str, index: int) -> None:
        """Removes that record, and the sample's file where no other video is compared with it. Raises OSError."""
        sha256 = self.linked(request_id, index)
        self._link(request_id, index).unlink(missing_ok=True)
        links = (self._folder / LINKS).glob("*-*")
        if sha256 is not None and not any(_text(link) == sha256 for link in links):
            (self._folder / PREVIEWS / sha256).unlink(missing_ok=True)

    def linked(self, request_id: str, index: int) -> str | None:
        """The SHA-256 of that sample, or None."""
        try:
            sha256 = self._link(request_id, index).read_text("ascii")
        except FileNotFoundError:
            return None
        return sha256 if _SHA256.fullmatch(sha256) else None

    def _link(self, request_id: str, index: int) -> Path:
        if not _ID.fullmatch(request_id):
            raise PreviewNotFound("There is no request with this id.")
        return self._folder / LINKS / f"{request_id}-{index}"

    # Reading

    def job(self, job_id: str) -> ImportedJob:
        """The imported job of an id. Raises PreviewNotFound when it does not exist or was removed."""
        with self._lock:
            if job_id in self._jobs:
                return self._jobs[job_id]
        folder = self._folder / job_id
        try:
            if not _ID.fullmatch(job_id):
                raise FileNotFoundError
            record = json.loads((folder / RECORD).read_text("utf-8"))
            text = (folder / CONFIG).read_bytes()
        except FileNotFoundError as error:
            raise PreviewNotFound("This training job was not found: import it again.") from error
        job = self._read(job_id, text, record)
        with self._lock:
            self._jobs[job_id] = job
        return job

    def _read(self, job_id: str, text: bytes, record: Mapping[str, Any]) -> ImportedJob:
        checkpoints = tuple(map(Checkpoint.read, record["saves"]))
        images = record.get("images", {})
        imported = self._import(text, checkpoints[-1] if checkpoints else None, images)
        return ImportedJob(
            job_id,
            record["origin"],
            text,
            imported,
            checkpoints,
            tuple(
                SampleFile(sample["step"], sample["index"], self._folder / job_id / sample["path"])
                for sample in record.get("samples", ())
            ),
            MappingProxyType(images),
            tuple(record.get("notes", ())),
            record.get("folder"),
        )

    def folder_now(self, job: ImportedJob) -> JobFolder:
        """What is now in the folder that a job was imported from.

        Raises JobNotWatchable for a job that was not imported as a folder, and what `import_folder` raises.
        """
        if job.folder is None:
            raise JobNotWatchable("This training job was not imported as a folder: import its folder on this machine.")
        return read_folder(*self._located(job.folder))

    def save(self, found: JobFolder, listed: CheckpointFiles) -> Checkpoint:
        """A save of a folder that `folder_now` gave, as LoRA sources. Raises LoraInvalid."""
        notes: list[str] = []
        checkpoint = self._store_checkpoint(found, listed, moves=False, notes=notes, access=LOCAL_ACCESS)
        if checkpoint is None:
            raise LoraInvalid(notes[0])
        return checkpoint

    def with_checkpoint(self, job: ImportedJob, checkpoint: Checkpoint | None) -> Imported:
        """The job's requests with a checkpoint's LoRA files; with None, those of the base model."""
        key = (job.id, "" if checkpoint is None else checkpoint.key)
        with self._lock:
            if key in self._by_checkpoint:
                return self._by_checkpoint[key]
        imported = self._import(job.config, checkpoint, job.images)
        if checkpoint is None and job.checkpoints:
            # Before training no file states the trainer's version; the job's other files do.
            known = self._import(job.config, job.checkpoints[-1], job.images)
            imported = replace(
                known,
                samples=tuple(
                    replace(sample, request=sample.request.model_copy(update={"loras": ()})) for sample in known.samples
                ),
            )
        with self._lock:
            self._by_checkpoint[key] = imported
        return imported

    def request(
        self, job: ImportedJob, index: int, checkpoint: Checkpoint | None, step: int | None = None
    ) -> InferenceRequest:
        """One of the job's samples as a request that names the sample to compare with. Raises PreviewNotFound."""
        imported = self.with_checkpoint(job, checkpoint)
        sample = next((each for each in imported.samples if each.index == index), None)
        if sample is None:
            raise PreviewNotFound(f"This job has no sample {index + 1} that can be rendered.")
        if step is None and checkpoint is not None:
            step = checkpoint.step if checkpoint.step is not None else checkpoint.trained
        compared = TrainingSample.model_validate({"job": job.id, "sample": index, "step": step})
        item = sample.request.prompts[0].model_copy(update={"training_sample": compared})
        return sample.request.model_copy(update={"prompts": (item,)})

    def target(self, named: TrainingSample) -> Target | None:
        """The job's sample that a request names, without its file's facts; None where it names a file alone.

        Raises PreviewNotFound for an unknown job, or an unknown sample of it.
        """
        if named.job is None:
            return None
        job = self.job(named.job)
        imported = self.with_checkpoint(job, job.checkpoint_at(named.step))
        sample = next((each for each in imported.samples if each.index == named.sample), None)
        if sample is None:
            raise PreviewNotFound("The training job has no such sample.")
        return Target(imported, sample, named.step)

    def check(self, wanted: TrainingSample, access: Access) -> None:
        """Raises PreviewNotFound for a training sample that does not exist or that the caller may not use."""
        if wanted.job is None and wanted.file is None:
            raise PreviewNotFound("A training sample names a job and its sample, or a file.")
        self.target(wanted)
        if wanted.file is None:
            return
        if not (self._folder / PREVIEWS / wanted.file).is_file() or not self._owned.may_use(wanted.file, access):
            raise PreviewNotFound("This training sample was not found: upload it again.")

    def preview_file(self, wanted: TrainingSample | None, sha256: str | None = None) -> Path | None:
        """The file of a training sample: the uploaded one, else the one in the job's folder; None: there is none."""
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
        listed = next((each.path for each in job.samples if (each.step, each.index) == (step, index)), None)
        # Checked at each use: in a folder under the LoRA folder, a file may have become a link since.
        roots = (self._folder.resolve(), *(root for _, root in self._library.roots()))
        path = None if listed is None else listed.resolve()
        if path is None or not path.is_file() or not any(path.is_relative_to(root) for root in roots):
            raise PreviewNotFound("This job has no such sample file.")
        return path

    def thumbnail(self, job: ImportedJob, step: int, index: int) -> Path:
        """A small picture of a sample file, made once and kept. Raises PreviewNotFound, ServerBusy and DiskFull."""
        path = self.sample_file(job, step, index)
        state = path.stat()
        key = hashlib.sha256(f"{path}:{state.st_size}:{state.st_mtime_ns}".encode()).hexdigest()
        kept = self._folder / THUMBNAILS / f"{job.id}-{key}.webp"
        if kept.is_file():
            return kept
        with self._decoding.hold():
            if not kept.is_file():
                data = thumbnail(path)
                with disk_full_mapped("this picture"):
                    kept.parent.mkdir(exist_ok=True)
                    write_file(kept, data)
        return kept

    def facts(self, path: Path) -> SampleFacts:
        """What a sample's file states. Raises what sample_files.decode raises."""
        state = path.stat()
        key = (str(path), state.st_size, state.st_mtime_ns)
        with self._lock:
            if key in self._facts:
                return self._facts[key]
        with self._decoding.hold():
            facts = decode(path).facts
        with self._lock:
            self._facts[key] = facts
        return facts

    # Storing

    @contextmanager
    def _staged(self) -> Iterator[Path]:
        """A folder that becomes a job's when it is complete, and is removed otherwise."""
        self._check_quota(0)
        with disk_full_mapped("this file"):
            create_folder(self._folder)
            with tempfile.TemporaryDirectory(prefix=PART_PREFIX, dir=self._folder) as folder:
                yield Path(folder)

    def _store(self, stage: Path, found: JobFolder, origin: str, access: Access, *, moves: bool) -> ImportedJob:
        """Stores a folder's job; `moves`: the folder is ours, so that its checkpoints become uploads."""
        import_job(found.config_text)  # before any file is moved
        notes = list(found.messages)
        stored = (self._store_checkpoint(found, each, moves, notes, access) for each in found.checkpoints)
        checkpoints = [checkpoint for checkpoint in stored if checkpoint is not None]
        images: dict[str, str] = {}
        for path in self._first_frames(found):
            try:
                images[str(path)] = self._images.put_bytes((found.root / path).read_bytes(), access)
            except (ControlImageInvalid, PayloadTooLarge) as error:
                notes.append(f"{one_line(path.name, 80)}: {error.message}")
        base = found.root.relative_to(stage) if moves else found.root
        record = {
            "origin": origin,
            "folder": None if moves else origin,
            "saves": [checkpoint.body() for checkpoint in checkpoints],
            "images": images,
            "samples": [
                {"step": sample.step, "index": sample.index, "path": str(base / sample.path)}
                for sample in found.samples
            ],
            "notes": notes,
        }
        return self._publish(stage, found.config_text, record, access)

    def _first_frames(self, found: JobFolder) -> list[Path]:
        """The first frames of the config's samples, as far as they are in the folder."""
        paths: list[Path] = []

        def note(written: str) -> str | None:
            path = found.find_image(written)
            if path is not None:
                paths.append(path)
            return None

        import_job(found.config_text, find_image=note)
        return list(dict.fromkeys(paths))

    def _store_checkpoint(
        self, found: JobFolder, listed: CheckpointFiles, moves: bool, notes: list[str], access: Access
    ) -> Checkpoint | None:
        files: dict[str, str] = {}
        for side, path in listed.files.items():
            whole = found.root / path
            try:
                if moves:
                    files[side] = f"{self._library.add_upload(whole, path.name, access)}/{path.name}"
                else:
                    files[side] = self._library.source_of(whole) or path.name
                    self._library.locate(files[side], LOCAL_ACCESS)  # a path, never an upload
            except (LoraInvalid, LoraNotFound) as error:
                files.pop(side, None)
                if moves:
                    whole.unlink(missing_ok=True)
                notes.append(f"{one_line(path.name, 120)} is skipped: {error.message}")
        if not files:
            return None
        return Checkpoint(listed.name, listed.step, MappingProxyType(files), self._trained(tuple(files.values())))

    def _trained(self, sources: Sequence[str]) -> int | None:
        return next((header.step for header in map(self._header, sources) if header is not None), None)

    def _header(self, source: str) -> LoraHeader | None:
        try:
            return self._library.locate(source, LOCAL_ACCESS).header
        except (LoraInvalid, LoraNotFound):
            return (
                None  # an address that is not downloaded yet; a missing file is reported when the request is submitted
            )

    def _publish(self, stage: Path, text: bytes, record: Mapping[str, Any], access: Access) -> ImportedJob:
        job_id = secrets.token_hex(16)
        target = self._folder / job_id
        write_file(stage / CONFIG, text)
        write_file(stage / RECORD, json.dumps(record).encode())
        target.mkdir()
        stage.replace(target)
        self._owned.record_owner(job_id, access)
        stage.mkdir()  # _staged removes it
        return self.job(job_id)

    def _import(self, text: bytes, checkpoint: Checkpoint | None, images: Mapping[str, str]) -> Imported:
        sources = () if checkpoint is None else tuple(checkpoint.files.values())
        header = next(filter(None, map(self._header, sources)), None)
        plain = import_job(text, header=header)
        return import_job(
            text, lora_items(plain, checkpoint, header), header, partial(_find, images) if images else not_here
        )


def _find(images: Mapping[str, str], written: str) -> str | None:
    found = JobFolder(Path(), b"", (), (), tuple(map(Path, images))).find_image(written)
    return None if found is None else f"upload://{images[str(found)]}"


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except FileNotFoundError:
        return ""  # removed meanwhile
