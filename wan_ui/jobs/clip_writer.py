"""Writes a rendered clip: the MP4, its poster, its lossless frames and its row in the database."""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from wan_ui.engine.result import Clip, ClipFiles
from wan_ui.errors import Cancelled, HostError
from wan_ui.files import create_folder, disk_full_mapped, remove_parts, write_file
from wan_ui.job import ClipRecord, Job
from wan_ui.jobs.store import Store
from wan_ui.media import clip_frames, poster, video
from wan_ui.media.clip_frames import LAST_SUFFIX, LOSSLESS_SUFFIX
from wan_ui.provenance import embedded_metadata

log = logging.getLogger(__name__)

OnFraction = Callable[[float], None]
"""Called with the share of the frames that are encoded, 0 to 1."""


class WriteVideo(Protocol):
    """Writes uint8 frames (T, H, W, 3) to a file, at so many frames per second, with metadata inside the file.

    `beat` is called several times a second and may raise, which ends the writing. `on_fraction` is called with the
    share of the frames that are encoded.
    """

    def __call__(
        self,
        path: Path,
        frames: npt.NDArray[np.uint8],
        fps: int,
        metadata: Mapping[str, Any],
        *,
        beat: Callable[[], None],
        on_fraction: OnFraction,
    ) -> None:
        """Write the file, whole or not at all."""


def clip_files(clip: Path) -> tuple[Path, Path, Path, Path]:
    """The files of a clip: MP4, frames without loss (only of clips that are compared), poster and last frame."""
    lossless, still, last = (clip.with_suffix(suffix) for suffix in (LOSSLESS_SUFFIX, poster.SUFFIX, LAST_SUFFIX))
    return clip, lossless, still, last


class ClipWriter:
    """Writes clips into `folder`, a folder of the data folder, under random names.

    Beside the MP4 its last frame is kept without loss, for a request that continues it. A clip that is compared with
    a trainer's sample also keeps its own frames, without loss.
    """

    def __init__(self, store: Store, folder: Path, write_video: WriteVideo) -> None:
        self._store = store
        self._folder = folder
        self._write_video = write_video

    def remove_incomplete_files(self) -> None:
        """Remove what a killed process was writing. Only for a process that alone uses the data folder."""
        try:
            remove_parts(self._folder)
            for file in self._store.incomplete_files():
                _remove(self._folder.parent / file)
        except OSError as error:
            log.warning("files that a killed process was writing cannot be removed", extra={"reason": error.strerror})
            return
        self._store.forget_incomplete_files()

    def write(
        self,
        job: Job,
        index: int,
        clip: Clip,
        seconds: Mapping[str, float],
        on_fraction: OnFraction = video.ignore_fraction,
        epoch: int | None = None,
    ) -> None:
        """Write the clip of generation `index`, whose phases took so many `seconds`, rendered under a lease's `epoch`.

        Reports how far it is.

        Raises Cancelled if the job no longer runs or is cancelled meanwhile, VideoEncodingFailed, DiskFull or
        HostError; no file is left then.
        """
        clip = replace(clip, metadata=finite(clip.metadata))
        path = self._folder / f"{secrets.token_hex(16)}.mp4"
        file = f"{self._folder.name}/{path.name}"
        with _host_errors("The folder for videos cannot be created"):
            # Not its parents: a data folder that is gone took the database with it, and a new one would hide that.
            if self._folder.parent.is_dir():
                create_folder(self._folder)
            else:
                self._folder.mkdir()  # raises what is wrong
        self._store.begin_clip(job.id, file)
        beat = partial(self._check_cancelled, job.id)
        metadata = embedded_metadata.of_clip(job, index, clip, seconds)
        stored = False
        try:
            if clip.files is not None:
                _write_files(path, clip.files, metadata, beat)
            else:
                self._write_video(path, clip.frames, clip.fps, metadata, beat=beat, on_fraction=on_fraction)
                _, lossless, still, last = clip_files(path)
                with _host_errors("The poster or the last frame of a video cannot be written"):
                    poster.write(still, clip.frames)
                    clip_frames.write_last(last, clip.frames)
                if job.training_sample(index) is not None:
                    video.write_lossless(lossless, clip.frames, beat=beat)
            stored = self._store.add_clip(
                job.id,
                ClipRecord(
                    index=index,
                    width=clip.width,
                    height=clip.height,
                    num_frames=clip.num_frames,
                    fps=clip.fps,
                    seed=clip.seed,
                    file=file,
                    metadata=clip.metadata,
                ),
                epoch,
            )
        finally:
            if not stored:
                _remove(path)
        if not stored:
            raise Cancelled("The job was canceled while this video was being written.")

    def _check_cancelled(self, job_id: str) -> None:
        if self._store.cancel_requested(job_id):
            raise Cancelled("The job was canceled while this video was being written.")


def _write_files(path: Path, files: ClipFiles, metadata: Mapping[str, Any], beat: Callable[[], None]) -> None:
    """Writes a clip that was encoded on another machine, with the metadata added to its MP4."""
    _, lossless, still, last = clip_files(path)
    video.write_encoded(path, files.video, metadata, beat=beat)
    with _host_errors("The poster or the last frame of a video cannot be written"):
        write_file(still, files.poster)
        write_file(last, files.last)
        if files.lossless is not None:
            write_file(lossless, files.lossless)


def finite(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """JSON-ready metadata with null for each number that JSON cannot hold; `not_finite` then lists where they were."""
    places: list[str] = []

    def value_of(value: Any, place: str) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            places.append(place)
            return None
        if isinstance(value, Mapping):
            return {key: value_of(inner, f"{place}.{key}") for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [value_of(inner, f"{place}.{index}") for index, inner in enumerate(value)]
        return value

    cleaned = {key: value_of(value, key) for key, value in metadata.items()}
    return {**cleaned, "not_finite": places} if places else metadata


def _remove(clip: Path) -> None:
    for path in clip_files(clip):
        path.unlink(missing_ok=True)


@contextmanager
def _host_errors(problem: str) -> Iterator[None]:
    """Raises DiskFull or HostError, whose message starts with `problem`, in place of an OSError."""
    try:
        with disk_full_mapped("the video"):
            yield
    except OSError as error:
        raise HostError(f"{problem} ({error.strerror}). Check the data folder and its disk.") from error
