"""Compares a job's clips with the trainer's samples: the checklist, figures by frame, and videos of the difference."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wan_ui.access import LOCAL_ACCESS, Access
from wan_ui.errors import DiskFull, LoraInvalid, LoraNotFound, PreviewNotFound
from wan_ui.files import is_disk_full, remove_parts, write_file
from wan_ui.media import video
from wan_ui.media.clip_frames import LOSSLESS_SUFFIX
from wan_ui.request import TrainingSample
from wan_ui.trainer import checklist, sample_comparison, sample_files
from wan_ui.trainer.checklist_rows import Row, Run
from wan_ui.trainer.sample_files import Frames

if TYPE_CHECKING:
    from collections.abc import Callable

    from wan_ui.job import Job
    from wan_ui.lora.header import LoraHeader
    from wan_ui.lora.library import Library
    from wan_ui.request import Generation
    from wan_ui.trainer.imported_jobs import ImportedJobs


@dataclass(frozen=True)
class ComparedSample:
    """A clip compared with its sample. `comparison` is sample_comparison.Comparison's body.

    `exact`: of the rendered frames, not of the MP4's compressed ones. `facts`: what the sample's file says.
    """

    comparison: Mapping[str, Any]
    exact: bool
    facts: sample_files.SampleFacts


@dataclass(frozen=True)
class ChecklistResult:
    """A clip's checklist. `beside` is None without a sample file or before the clip is finished."""

    rows: tuple[Row, ...]
    beside: ComparedSample | None
    sample: TrainingSample | None

    @property
    def text(self) -> str:
        """The checklist as text, to paste into a forum."""
        return checklist.as_text(self.rows)


class SampleComparisons:
    """Compares clips with samples, each pair once: results are cached in `folder` and computed again if deleted.

    `clip_path` gives the file of a clip by its job's id and its index; it raises VideoNotFound. `precisions` gives
    those of the checkpoint files that a generation would be loaded from.
    """

    def __init__(
        self,
        imported_jobs: ImportedJobs,
        library: Library,
        folder: Path,
        clip_path: Callable[[str, int], Path],
        precisions: Callable[[Generation], tuple[str, ...]],
    ) -> None:
        self._imported_jobs = imported_jobs
        self._library = library
        self._folder = folder
        self._clip_path = clip_path
        self._precisions = precisions
        self._one_at_a_time = threading.Lock()  # each takes all processors and hundreds of megabytes

    def sweep(self) -> None:
        """Remove the files that a killed process left incomplete. Only for a process that alone uses the folder."""
        for folder in self._folder.glob("*/"):
            remove_parts(folder)

    def is_compared(self, job: Job, index: int) -> bool:
        """Whether the request names a training sample, or a sample was uploaded for this clip."""
        return job.training_sample(index) is not None or self._imported_jobs.linked(job.id, index) is not None

    def attach(self, job: Job, index: int, file: Path, access: Access) -> None:
        """Set the uploaded sample that a clip is compared with, replacing any other; `file` is moved.

        Raises VideoNotFound, and what ImportedJobs.store_sample raises.
        """
        job.request_of(index)
        self._imported_jobs.link(job.id, index, self._imported_jobs.store_sample(file, access))

    def check(self, job: Job, index: int) -> ChecklistResult:
        """The checklist of a clip, finished or not. Raises PreviewNotFound if it is compared with nothing."""
        sample, linked = job.training_sample(index), self._imported_jobs.linked(job.id, index)
        if sample is None and linked is None:
            raise PreviewNotFound(
                "This video has no training sample to compare with: upload one, or reproduce one of an imported job."
            )
        file = self._imported_jobs.preview_file(sample, linked)
        facts = None if file is None else self._imported_jobs.facts(file)
        clip = next((clip for clip in job.clips if clip.index == index), None)
        generation = job.generations[index]
        headers = {use.path: header for use in generation.loras if (header := self._header(use.path, use.sha256))}
        run = Run(generation, headers, None if clip is None else clip.metadata)
        if clip is None:
            run = replace(run, precisions=self._precisions(generation))
        target = None if sample is None else self._imported_jobs.target(sample)
        if target is not None:
            rows = checklist.checklist(replace(target, file=facts), run)
        elif facts is not None:
            rows = checklist.file_checklist(facts, run)
        else:
            raise PreviewNotFound("The sample of this video was deleted: upload it again.")
        beside = self._beside(job, index, file) if file is not None and clip is not None else None
        return ChecklistResult(rows, beside, sample)

    def film(self, job: Job, index: int, which: str) -> Path:
        """An MP4: for `which` "preview" the sample's frames at the clip's times, for "difference" the difference.

        Raises PreviewNotFound, VideoNotFound.
        """
        sample = job.training_sample(index)
        file = self._imported_jobs.preview_file(sample, self._imported_jobs.linked(job.id, index))
        if file is None:
            raise PreviewNotFound("There is no training sample for this video.")
        self._beside(job, index, file)
        return self._kept(job, index, file) / f"{which}.mp4"

    def forget(self, job_id: str, index: int) -> None:
        """Remove everything about a deleted clip: cached results and its uploaded sample. Raises OSError."""
        with self._one_at_a_time:
            for folder in self._folder.glob(f"{job_id}-{index}-*"):
                shutil.rmtree(folder)
            self._imported_jobs.unlink(job_id, index)

    def _header(self, path: str, sha256: str | None) -> LoraHeader | None:
        try:
            return self._library.locate(path, LOCAL_ACCESS, sha256).header
        except (LoraInvalid, LoraNotFound):
            return None  # deleted since; its rows then say unknown

    def _kept(self, job: Job, index: int, file: Path) -> Path:
        state = file.stat()
        return self._folder / f"{job.id}-{index}-{state.st_size:x}-{state.st_mtime_ns:x}"

    def _beside(self, job: Job, index: int, file: Path) -> ComparedSample:
        folder = self._kept(job, index, file)
        with self._one_at_a_time:
            try:
                record = json.loads((folder / "comparison.json").read_text("utf-8"))
            except FileNotFoundError:
                record = self._compared(job, index, file, folder)
        facts = record["facts"]
        return ComparedSample(
            record["comparison"],
            record["exact"],
            sample_files.SampleFacts(**{**facts, "rates": tuple(facts["rates"])}),
        )

    def _compared(self, job: Job, index: int, file: Path, folder: Path) -> dict[str, Any]:
        """Compares, writes the videos and then comparison.json, whose presence says that all of them are complete."""
        clip = self._clip_path(job.id, index)
        kept = clip.with_suffix(LOSSLESS_SUFFIX)
        exact = kept.is_file()
        frames = video.read_lossless(kept) if exact else video.read_frames(clip)
        shown, fps = sample_files.decode(file), job.generations[index].fps
        result = sample_comparison.compare(shown, frames, fps)
        height, width = frames.shape[1:3]
        ours = frames[[own for own, _ in result.pairs]]
        theirs = shown.frames[[min(two, len(shown.frames) - 1) for _, two in result.pairs]]
        record = {"comparison": result.body(), "exact": exact, "facts": asdict(shown.facts)}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            video.write(folder / "preview.mp4", _even(theirs), fps, {})
            video.write(
                folder / "difference.mp4", _difference(ours, sample_comparison.resized(theirs, width, height)), fps, {}
            )
            write_file(folder / "comparison.json", json.dumps(record).encode())
        except OSError as error:
            if is_disk_full(error):
                raise DiskFull("There is no space left on the disk for the comparison. Free some space.") from error
            raise
        return record


def _difference(first: Frames, second: Frames) -> Frames:
    """The difference of two clips of one shape, frame by frame, which keeps the wider integers few."""
    return np.stack([sample_comparison.difference(x, y) for x, y in zip(first, second, strict=True)])


def _even(frames: Frames) -> Frames:
    """The frames without an odd last column or row, which 4:2:0 chroma subsampling cannot hold."""
    height, width = (max(2, side - side % 2) for side in frames.shape[1:3])
    if frames.shape[1] < 2 or frames.shape[2] < 2:
        return sample_comparison.resized(frames, width, height)
    return np.ascontiguousarray(frames[:, :height, :width])
