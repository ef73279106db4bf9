"""JSON schemas of the API: responses, and bodies other than InferenceRequest."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from wan_ui.jobs.shares import DAYS, LONGEST_DAYS

JobStatus = Literal["in_queue", "in_progress", "succeeded", "failed", "canceled"]
CellStatus = Literal["waiting", "running", "succeeded", "failed", "missing"]


class Body(BaseModel):
    """What a client sends: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class ErrorInfo(BaseModel):
    """What went wrong, for programs and for people."""

    code: str = Field(description="What happened, for programs: REQUEST_NOT_FOUND and the like.")
    message: str = Field(description="What happened and what to do, for people.")
    details: dict[str, Any]


class ErrorDetail(BaseModel):
    """The reference server's wrapper of an error."""

    error: ErrorInfo


class ErrorReply(BaseModel):
    """Every error of every route."""

    detail: ErrorDetail


class Submitted(BaseModel):
    """A request that was put in the queue."""

    request_id: str
    status: Literal["queued"]
    status_url: str
    result_url: str
    created_at: str = Field(description="ISO 8601, UTC, ending in Z; so are all times.")


class JobProgress(BaseModel):
    """How far a request is, all its videos with their decoding and encoding included."""

    phase: Literal["checking", "downloading", "loading", "lora", "text", "image", "denoise", "decode", "encode"] | None
    step: int = Field(description="Denoising steps of the present video that are finished.")
    steps: int
    phase_fraction: float | None = Field(description="How much of the phase is done, 0 to 1; null where unknown.")
    seconds_per_step: float | None
    note: str
    video: int | None = Field(description="The index of the present video; null while the request waits.")
    steps_done: int = Field(description="Denoising steps of all its videos that are finished.")
    steps_total: int
    fraction: float | None = Field(description="The share of its time that has passed, 0 to 1.")
    seconds_left: float | None = Field(
        description="Until all its videos are finished, what it waits for others included; null while nothing is known."
    )
    seconds_until_start: float | None = Field(description="Of a request that waits.")
    about: bool = Field(description="Whether the seconds are rough: nothing of this model and size was measured here.")


class RequestStatus(BaseModel):
    """The state of a request."""

    request_id: str
    status: JobStatus
    created_at: str
    started_at: str | None
    finished_at: str | None
    error: ErrorInfo | str | None = Field(description="Text with --compat reference.")
    progress: JobProgress | None = Field(description="null of a finished request, and in the reply to a change.")


class RequestMove(Body):
    """Where a waiting request is to stand in the queue."""

    position: int = Field(
        description="From 1, the next to run; beyond the end is the end.", ge=1, le=1_000_000, strict=True
    )


class RequestMoved(BaseModel):
    """A request that was moved."""

    request_id: str
    status: str
    position: int | None = Field(description="From 1, the next to run; null once it runs.")


class CellPlace(BaseModel):
    """The position of a cell in a comparison."""

    column: int = Field(description="From 0, from the left; metadata.compare has the columns.")
    row: int = Field(description="From 0, from the top.")
    page: int = Field(description="From 0; the values of the third axis, one grid for each.")
    column_label: str
    row_label: str
    page_label: str


class VideoOutput(BaseModel):
    """A finished video."""

    format: Literal["mp4"]
    width: int = Field(description="Pixels, effective.")
    height: int = Field(description="Pixels, effective.")
    num_frames: int
    fps: int
    file_path: str = Field(description="Relative to the server's data folder.")
    url: str
    seed: int
    cell: CellPlace | None = Field(None, description="Of a comparison only.")


class Outputs(BaseModel):
    """The files of a request."""

    images: list[dict[str, Any]] = Field(description="Always empty: these models make videos.")
    videos: list[VideoOutput] = Field(
        description="In prompt order; of a comparison one per finished cell, row by row. Equal cells share a file."
    )


class RequestResult(BaseModel):
    """A request with its videos and what they were made with."""

    request_id: str
    status: JobStatus
    outputs: Outputs | None = Field(description="null before the end; of a failed or canceled request, what finished.")
    error: ErrorInfo | str | None = Field(description="Text with --compat reference.")
    created_at: str
    finished_at: str | None
    metadata: dict[str, Any] = Field(
        description="What was ignored and adjusted, and every value that was used. Of a comparison also `compare`, "
        "from the start: `columns`, `rows` and `pages` (field, values, labels), `baseline`, `gpu_models`, and `cells` "
        "page by page and row by row (column, row, page, status, video and its url, error, progress, your mark); a "
        "status is waiting, running, succeeded, failed or missing; `judging` is what GET …/judging returns."
    )


class ModelInfo(BaseModel):
    """A model and its defaults."""

    id: str
    base_model: str
    resolution_divisor: int
    default_steps: int
    default_guidance_scale: float
    requires_control_image: bool
    is_video_model: bool
    default_num_frames: int
    default_fps: int


class ModelList(BaseModel):
    """All models."""

    models: list[ModelInfo]


class SpeedLoraFile(BaseModel):
    """A file of a speed LoRA."""

    slot: str
    network_multiplier: float
    hub: str = Field(description="Where it is downloaded from.")
    availability: Literal["here", "download", "missing"] = Field(
        description="download: the request that needs it downloads it. missing: not here, and not yours to download."
    )
    path: str | None = Field(description="Its path on this server, as in a request.")


class SpeedLoraInfo(BaseModel):
    """A speed LoRA and what it sets where a prompt leaves it out."""

    id: str
    label: str
    models: list[str]
    sample_steps: int
    guidance_scale: float
    sampler: str
    flow_shift: float
    source: str
    note: str
    files: list[SpeedLoraFile]
    availability: Literal["here", "download", "missing"] = Field(description="Of all its files together.")


class SpeedLoraList(BaseModel):
    """All speed LoRAs."""

    speed_loras: list[SpeedLoraInfo]


class InspectBody(Body):
    """The LoRA source to inspect."""

    path: str = Field(
        min_length=1,
        max_length=4096,
        description="As in a request: a path under the LoRA folder, upload://, http(s):// or hf://org/name/file.",
    )


class Spread(BaseModel):
    """The smallest, median and largest value in a file."""

    min: float
    median: float
    max: float


class Inspection(BaseModel):
    """What a LoRA file is, from its header."""

    family: str | None = Field(description="null when the header cannot tell which.")
    candidates: list[str] = Field(description="Ids of the models it was made for, as far as the header tells.")
    slot: str = Field(description="high, low, combined or unknown.")
    type: str
    rank: Spread | None
    alpha: Spread | None
    dtype: str
    modules: int
    blocks: str = Field(description="Ranges, such as 0-29.")
    trainer: str | None
    step: int | None
    trigger_word: str | None
    partner: str | None = Field(description="The other half of a pair, as a path for a request.")
    fits: dict[str, Literal["yes", "no", "unknown"]] = Field(description="By model id.")
    coverage: dict[str, float] = Field(description="By model id: the share of its layers that the model has, 0 to 1.")
    messages: list[str]


class Pulse(BaseModel):
    """A value that changes with any request."""

    pulse: str = Field(description="Stays the same while no request has changed; for clients that poll many.")


class ContinuedRequest(BaseModel):
    """The request of a clip's next part."""

    request: dict[str, Any] = Field(description="A body for POST /inference.")
    notes: list[str]
    lossless: bool = Field(description="Whether it starts from the rendered frame, not from a compressed one.")


class RestoredSettings(BaseModel):
    """The settings that a video carries, held against what is here now."""

    request: dict[str, Any] = Field(description="A body for POST /inference, without what is not here.")
    comparison: dict[str, Any] | None = Field(description="The whole comparison, where the video is one of its cells.")
    cell: str | None = Field(description="Which cell that is, by the heads of its column, row and page.")
    notes: list[str] = Field(description="What is not as it was, one sentence each; empty: all is here.")
    first_frame: Literal["none", "here", "missing", "from_video"] = Field(
        description="Whether the request needs no first frame, has its own, lacks it, or has the video's own instead."
    )
    last_frame: Literal["none", "here", "missing", "from_video"] = Field(description="The same of its last frame.")
    made: dict[str, Any] = Field(description="By what: wan_ui, versions, device, checkpoint, seconds by phase.")


class StoredFile(BaseModel):
    """A file that a visitor has sent."""

    kind: str = Field(description="lora, image (a first frame) or job (an imported training job).")
    id: str
    name: str = Field(description="As its sender named it; empty for a first frame.")
    size: int = Field(description="Bytes.")


class StoredFileList(BaseModel):
    """What a visitor has sent."""

    files: list[StoredFile]


class SlotShown(BaseModel):
    """A GPU that renders clips in a process of its own."""

    name: str
    device: str | None = Field(description="The GPU's model; null before it was first used.")
    state: str = Field(description="rendering, idle, or stopped: without a process until a clip waits.")
    model: str | None = Field(description="The model that is loaded.")
    seconds_left: float | None = Field(description="Of the denoising of the clip that is rendered.")
    failures: int = Field(description="How often its process ended in the middle of a clip.")


class MachineShown(BaseModel):
    """A machine of the cluster that has GPUs."""

    name: str
    state: str = Field(description="asked: it has not said what it has; used, or refused.")
    reason: str | None = Field(description="Why it is refused.")
    models: list[str] = Field(description="The models that it has complete.")
    splits: bool = Field(
        description="Whether its GPUs can render one video together: their processes share folders, "
        "the loopback interface and shared memory. false also where it has one GPU."
    )


class Health(BaseModel):
    """The state of the server."""

    status: str = Field(
        description="starting, ready, or failed: it can render no more, or its database is gone. It must be restarted."
    )
    problem: str | None = Field(None, description="What is wrong, where status is failed.")
    version: str
    device: str | None
    queue: int = Field(description="Requests waiting.")
    slots: list[SlotShown] = Field(default_factory=list, description="The GPUs, where several are in use; else empty.")
    machines: list[MachineShown] = Field(default_factory=list, description="Of the cluster, where there is one.")


class LoadedModel(BaseModel):
    """A model that is loaded."""

    id: str
    label: str


class MachineInfo(BaseModel):
    """The machine that renders. Memory and disk, in bytes, are shown to the owner; null for others."""

    version: str
    device: str | None = Field(description="null until the engine is ready.")
    models: list[LoadedModel] = Field(description="The models that are loaded; empty where none is.")
    owner: bool = Field(description="Whether the sender is the owner, who may unload.")
    memory_free: int | None = Field(description="Of the GPUs, or of the machine where the CPU renders.")
    memory_total: int | None
    disk_free: int | None = Field(description="On the disk of the data folder.")


class LoraShown(BaseModel):
    """A LoRA file by name."""

    name: str
    sha256: str = Field(description="Empty where it is not known.")


class LoraWorn(LoraShown):
    """A use of a LoRA file in a clip."""

    slot: str | None = Field(description="Which transformer it is attached to; null of a comparison.")
    network_multiplier: float | list[float] | dict[str, float] | None = Field(
        description="Its scale, as in a request; null of a comparison."
    )


class GalleryEntry(BaseModel):
    """A finished clip, or a comparison with all its clips; then the values are those of its first clip."""

    id: str
    request_id: str
    kind: Literal["video", "comparison"]
    video: int | None = Field(description="The clip's number in its request; null of a comparison.")
    model: str
    model_label: str
    recipe: str
    speedup: str
    speed_lora: str | None = Field(description="The speed LoRA of a fast look; null of a video in full.")
    prompt: str
    neg: str
    width: int = Field(description="Pixels.")
    height: int = Field(description="Pixels.")
    num_frames: int
    fps: int
    seed: int
    sample_steps: int
    guidance_scale: float
    has_first_frame: bool
    loras: list[LoraWorn]
    cells: int = Field(description="Of a comparison; 0 of a video.")
    videos: int = Field(description="What its request is to make.")
    made: int = Field(description="What is left of what its request made.")
    kept: bool = Field(description="A favourite, which is never deleted automatically.")
    may_change: bool = Field(description="Whether it is for you to keep or delete.")
    may_share: bool = Field(description="Whether you may make share links to it: only the owner may.")
    finished: bool = Field(description="Whether its request has come to its end.")
    made_at: str
    url: str = Field(description="The clip, relative to /v1; of a comparison its labelled grid.")
    poster_url: str = Field(description="Relative to /v1.")
    json_url: str = Field(description="What the clip was made with, relative to /v1.")


class GalleryPage(BaseModel):
    """A page of the gallery."""

    entries: list[GalleryEntry] = Field(description="Newest first.")
    older: str | None = Field(description="The cursor of the next page.")
    newer: str | None = Field(description="The cursor of the page before; null on the first.")


class ModelChoice(BaseModel):
    """A model to filter the gallery by."""

    id: str
    label: str
    entries: int


class LoraChoice(LoraShown):
    """A LoRA to filter the gallery by."""

    entries: int


class GalleryChoices(BaseModel):
    """What the gallery can be filtered by."""

    entries: int
    kept: int
    models: list[ModelChoice]
    loras: list[LoraChoice]


class KeepBody(BaseModel):
    """Whether an entry is a favourite."""

    kept: bool


class ShareBody(Body):
    """What a share link shows, and for how long."""

    entry: str = Field(description="`id` of an entry of the gallery.", max_length=200)
    days: int = Field(DAYS, description="Until the link ends.", ge=1, le=LONGEST_DAYS)


class ShareLink(BaseModel):
    """A share link that is open."""

    id: str
    entry: str = Field(description="`id` of the gallery entry that it shows.")
    created_at: str
    ends_at: str


class NewShare(ShareLink):
    """A new share link."""

    url: str = Field(description="The address to send. It is not stored, so no later response has it.")


class ShareList(BaseModel):
    """The share links that are open."""

    shares: list[ShareLink] = Field(description="Newest first.")


class MarkBody(Body):
    """A mark on a clip of a comparison."""

    mark: Literal["favourite", "rejected"] | None = Field(description="null removes the mark.")


class VoteBody(Body):
    """A vote on a pair."""

    choice: Literal["a", "b", "tie"] = Field(description="The better side.")


class BallotBody(BaseModel):
    """A pair of clips to vote on."""

    id: str | None = Field(description="null when you have voted on every pair.")
    a_url: str | None = Field(description="The clip of side a, without its settings.")
    b_url: str | None
    choice: Literal["a", "b", "tie"] | None = Field(description="Your vote on it so far.")
    voted: int = Field(description="On how many pairs you have voted.")
    pairs: int = Field(description="How many pairs there are now; more as cells finish.")


class MarksOf(BaseModel):
    """How often a clip of a comparison was marked."""

    video: int = Field(description="The clip's number, as in `cells`.")
    favourite: int
    rejected: int


class PlaceBody(BaseModel):
    """A place of a ranking."""

    label: str
    text: str = Field(description="`step 1500 wins 71 % ± 9`.")
    video: int | None = Field(description="The clip's number; null of a column, row or page.")
    column: int | None
    row: int | None
    page: int | None
    wins: float = Field(description="A tie is half a win.")
    votes: int
    share: float = Field(description="The probability that it is preferred to another one chosen at random.")
    margin: float = Field(description="Half the width of the share's 95 % interval.")
    is_certain: bool = Field(description="Whether it is certain enough (95 %) that the next place is worse.")


class JudgementBody(BaseModel):
    """The judgement of one session, or of all together."""

    marks: list[MarksOf]
    voters: int = Field(description="Sessions that voted.")
    votes: int
    cells: list[PlaceBody] = Field(description="Finished clips, best first (Bradley-Terry).")
    columns: list[PlaceBody] = Field(description="By column value; empty without votes between columns.")
    rows: list[PlaceBody] = Field(description="By row value; empty without votes between rows.")
    pages: list[PlaceBody] = Field(description="By page value; empty without votes between pages.")


class JudgingBody(BaseModel):
    """What was said of a comparison."""

    mine: JudgementBody
    everybody: JudgementBody | None = Field(description="All sessions together; null unless you are the owner.")


class RequestIdBody(Body):
    """A request by its id."""

    request_id: str = Field(pattern="^[0-9A-Za-z-]{1,200}$", description="From submit or compare.")


class RestoreBody(Body):
    """A video whose settings are read."""

    video: str = Field(min_length=1, description="An MP4 as base64.")
