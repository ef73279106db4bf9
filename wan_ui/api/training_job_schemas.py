"""JSON schemas of training jobs in the API: importing and watching them, and a video's checklist."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from wan_ui.api.schemas import Body
from wan_ui.request import MOST_CELLS, LoraItem


class ImportBody(Body):
    """One of `config` and `folder`."""

    config: str | None = Field(None, description="The text of a job's config.yaml.")
    folder: str | None = Field(None, max_length=4096, description="A job's folder, as a path under the LoRA folder.")
    loras: list[LoraItem] = Field(
        default_factory=list, max_length=MOST_CELLS, description="With config: the job's LoRA files, for the requests."
    )


class SampleOf(BaseModel):
    """What belongs to the request of a sample."""

    index: int = Field(description="As in the names of its sample files.")
    network_multiplier: float
    missing_image: str | None = Field(description="The first frame that its request still needs, as the job names it.")


class CheckpointOf(BaseModel):
    """A LoRA checkpoint of a training job."""

    name: str
    step: int | None = Field(description="null for the final one.")
    trained_step: int | None = Field(description="The step in the file's own metadata.")
    files: dict[str, str] = Field(description='LoRA sources for a request, by "high" and "low", or "whole".')


class SampleFileOf(BaseModel):
    """A sample file of a training job."""

    step: int
    index: int
    url: str
    thumbnail_url: str


class ImportedJob(BaseModel):
    """A training job as requests for POST /inference, one per sample, with its last checkpoint."""

    id: str
    name: str | None
    model: str
    model_assumed: bool = Field(description="The config leaves open which of several models it was.")
    recipe: str
    recipe_known: bool = Field(description="Whether a LoRA file says which version of the trainer made the previews.")
    trigger_word: str | None
    slots: list[str]
    network_type: str
    quantised: str | None
    recovery_adapter: bool
    layer_offloading: bool
    tiled: bool
    requests: list[dict[str, Any]] = Field(description="Each one a body for POST /inference.")
    samples: list[SampleOf] = Field(description="What belongs to each of `requests`, in the same order.")
    checkpoints: list[CheckpointOf] = Field(description="By training step, the final one last.")
    sample_files: list[SampleFileOf] = Field(description="The previews in the job's folder.")
    notes: list[str]
    unknown: dict[str, str] = Field(description="Keys of the config that nothing here reads.")


class RenderOfSample(BaseModel):
    """The newest render of a sample at a step."""

    step: int | None
    sample: int
    request_id: str
    video: int = Field(description="Which of the request's videos, from 0.")
    status: str = Field(description="The request's.")
    url: str | None = Field(description="The video; null until it is finished.")
    poster_url: str | None


class RendersOfSamples(BaseModel):
    """What you have rendered of a training job's samples."""

    renders: list[RenderOfSample]


class ChecklistRow(BaseModel):
    """A setting that decides the frames, in the trainer and here."""

    row: str
    state: Literal["green", "amber", "red"] = Field(description="amber: it cannot be known, or differs by rounding.")
    preview: str
    run: str
    message: str
    fixable: bool


class Cause(BaseModel):
    """A likely cause of a difference."""

    id: str
    message: str


class ComparisonOf(BaseModel):
    """The preview's file beside the video, frame by frame."""

    pairs: list[tuple[int, int]] = Field(description="Frame of the video and frame of the preview, aligned by fps.")
    psnr: list[float] = Field(description="Decibels, 100 for equal frames.")
    ssim: list[float]
    mean_psnr: float
    mean_ssim: float
    causes: list[Cause] = Field(description="Where they differ: what it most likely comes from.")
    exact: bool = Field(description="Of the render's own frames; false: of the MP4's, which are compressed.")
    width: int = Field(description="The preview's, in pixels.")
    height: int
    num_frames: int
    fps: int | None


class Checklist(BaseModel):
    """A video against the trainer's sample."""

    rows: list[ChecklistRow]
    text: str = Field(description="The same as plain text, to paste into a forum.")
    comparison: ComparisonOf | None


class WatchBody(Body):
    """How to watch a training job."""

    existing: bool = Field(False, description="Also render the saves that are there already.")


class WatchInfo(BaseModel):
    """A watched training job."""

    job_id: str
    started_at: str
    comparison: str | None = Field(description="The request id of the standing comparison; null before its first clip.")
    rendered: int = Field(description="Saves that are rendered with all samples.")
    waiting: int = Field(description="Complete saves that are not.")
    problem: str | None = Field(description="Why nothing is rendered now, or why a save was not.")
