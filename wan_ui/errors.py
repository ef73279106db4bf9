"""The error types: their HTTP status, their wire code, and who can fix what they report.

WanUIError
├── RequestError            the client: change the request
│   ├── BadJson                 400  the body is not JSON
│   ├── InvalidRequest          422  a field is missing, unknown, of the wrong type or out of bounds
│   ├── JobConfigInvalid        422  a training job that cannot be read: its config.yaml, its ZIP or its folder
│   ├── ModelNotFound           400
│   ├── BaseNotFound            400  `base` names a file that is not listed, or leaves a choice open
│   ├── MoeFormatRequired       400  a two-transformer model needs `transformer` on each LoRA
│   ├── MoeFormatNotSupported   400  `transformer` given to a model with one transformer
│   ├── SingleMoeConfigOnly     400  two LoRAs for the same transformer
│   ├── SingleLoraOnly          400  two LoRAs for a model with one transformer
│   ├── LoraNotFound            400
│   ├── LoraInvalid             400  not a valid safetensors file, or no LoRA in it
│   ├── LoraMismatch            400  a LoRA made for another model
│   ├── ControlImageRequired    400
│   ├── ControlImageNotSupported 400
│   ├── SpeedupNotSupported     400  the device does not support it
│   ├── ControlImageInvalid     400  not an image, unreadable, too large, or not downloaded
│   ├── FramesNotFinite         400  a LoRA's weights or scale left no numbers in the frames
│   ├── VideoInvalid            400  a video without settings, or with settings that cannot be read
│   ├── HubTokenNeeded          400  the request's own token for the Hugging Face hub is gone
│   ├── FetchFailed             400  an address that is refused, silent, too slow or too large
│   ├── PayloadTooLarge         413
│   ├── CostTooHigh             413  more frames × pixels than --max-cost
│   ├── OriginRefused           403  a page of another site, or an unknown Host
│   ├── OwnerOnly               403  what visitors may not do
│   ├── LoginRequired           401  not logged in
│   ├── LoginFailed             401  wrong password
│   ├── LoginLocked             429  too many wrong passwords
│   ├── QueueFull               429  the queue has reached its limit
│   ├── TooManyStreams          429  one browser, or this server, has as many open event streams as may be
│   ├── TooManyRequests         429  one browser, or all guests, have too much under way at once
│   ├── RequestNotFound         404
│   ├── VideoNotFound           404
│   ├── UploadNotFound          404
│   ├── PictureNotFound         404  a request without a live picture: not denoising, or before its first
│   ├── ShareNotFound           404  no open share link
│   ├── ShareEnded              410  a share link that has ended or was withdrawn
│   ├── StillRunning            409  a queued or running job, or a file that one uses, cannot be deleted
│   ├── JobNotWatchable         409  a training job that is no folder of this machine, or has nothing to render
│   ├── NotWatched              404  a training job that is not watched
│   ├── NotWaiting              409  only a waiting job can be moved
│   ├── ModelInUse              409  the loaded model cannot be freed while a video is rendered
│   ├── PairNotFound            404  a pair of clips that was not shown to this session
│   ├── TooManyVotes            429  more votes on one comparison than a session may cast
│   ├── PreviewNotFound         404  no such imported training job, or nothing to compare a video with
│   └── RouteNotFound           404
├── HostError               the operator: disk, memory, files, device
│   ├── CheckpointNotFound      503
│   ├── CheckpointIncomplete    503  names the missing file
│   ├── CheckpointInvalid       503  a file that is no checkpoint, or one of another model; names the file
│   ├── CheckpointUnsupported   503  another Wan family, or a number format that cannot be read; names the file
│   ├── DiskFull                507
│   ├── OutOfMemory             503  GPU memory; the message says what to try
│   ├── TooManyOpenFiles        503  the process, or the machine, has no file descriptor left
│   ├── DeviceUnavailable       503
│   ├── VideoEncodingFailed     500
│   ├── DataFolderInUse         503  another server uses the data folder
│   ├── ShareFailed             503  no public link
│   ├── McpNotInstalled         501  the extra `mcp` is not installed
│   ├── SlotLost                503  the process of a GPU ended
│   │   └── GroupLost           503  one of the GPUs that rendered a video together failed
│   ├── SlotUnfit               503  a machine of the cluster lacks the checkpoint
│   ├── ClusterUnavailable      503  the cluster cannot be joined, or `ray` is not installed
│   └── RestartNeeded           503  this process cannot render any more and ends, to be started again
│       ├── DeviceLost              503  the CUDA context is dead
│       ├── ExchangeFailed          503  GPUs that were to render a video together cannot exchange data
│       ├── RenderTimedOut          503  a render took longer than --job-timeout
│       └── QueueStopped            503  the worker's thread ended
├── RenderFailed            500  an unexpected failure, a bug of ours
├── CellsFailed             500  some videos of a comparison failed; each states why
├── ServerBusy              503  too many slow requests at once; the same request can be sent again
└── Cancelled               409  cancelled on request
"""

from __future__ import annotations

from typing import Any, ClassVar


class WanUIError(Exception):
    """Base of the errors that this project raises on purpose.

    `message` is one or two sentences for the user: what is wrong and what to do. `details` is a JSON-ready mapping.
    Neither ever holds a secret or an absolute path of the server. `status` is the HTTP status.
    """

    code: ClassVar[str] = "ERROR"
    status: ClassVar[int] = 500

    def __init_subclass__(cls, code: str, status: int) -> None:
        cls.code, cls.status = code, status

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = details

    def body(self) -> dict[str, Any]:
        """The error as the API sends and the job store keeps it: `{code, message, details}`."""
        return {"code": self.code, "message": self.message, "details": self.details}


class RequestError(WanUIError, code="BAD_REQUEST", status=400):
    """The client can fix this by changing the request."""


class BadJson(RequestError, code="BAD_JSON", status=400):
    """The body is not JSON."""


class InvalidRequest(RequestError, code="INVALID_REQUEST", status=422):
    """`details["fields"]` is a list of `{loc, msg}`, `loc` being a path such as `prompts.0.width`."""


class JobConfigInvalid(RequestError, code="JOB_CONFIG_INVALID", status=422):
    """`details["fields"]` as in InvalidRequest, `loc` being a path such as `config.process.0.model.arch`."""


class ModelNotFound(RequestError, code="MODEL_NOT_FOUND", status=400):
    """There is no model of this id; `details["models"]` lists the ids, as does the reference's `supported_models`."""


class BaseNotFound(RequestError, code="BASE_NOT_FOUND", status=400):
    """`details["candidates"]` lists the names that the request's `base` may hold for the component."""


class MoeFormatRequired(RequestError, code="MOE_FORMAT_REQUIRED", status=400):
    """A model with two transformers needs `transformer` on each LoRA."""


class MoeFormatNotSupported(RequestError, code="MOE_FORMAT_NOT_SUPPORTED", status=400):
    """`transformer` was given for a model with one transformer."""


class SingleMoeConfigOnly(RequestError, code="SINGLE_MOE_CONFIG_ONLY", status=400):
    """Two LoRAs for the same transformer of a pair, without `stack`."""


class SingleLoraOnly(RequestError, code="SINGLE_LORA_ONLY", status=400):
    """Two LoRAs for a model with one transformer, without `stack`."""


class LoraNotFound(RequestError, code="LORA_NOT_FOUND", status=400):
    """There is no such LoRA file, upload or address."""


class LoraInvalid(RequestError, code="LORA_INVALID", status=400):
    """The file is not a valid safetensors file, or holds no LoRA."""


class LoraMismatch(RequestError, code="LORA_MISMATCH", status=400):
    """The LoRA was made for another model; `details["fits"]` lists the ids of those it fits, where known."""


class ControlImageRequired(RequestError, code="CONTROL_IMAGE_REQUIRED", status=400):
    """An image-to-video model was asked for a video without a first frame."""


class ControlImageNotSupported(RequestError, code="CONTROL_IMAGE_NOT_SUPPORTED", status=400):
    """A text-to-video model was given a first frame."""


class ControlImageInvalid(RequestError, code="CONTROL_IMAGE_INVALID", status=400):
    """The first frame is not an image, unreadable, too large, or could not be downloaded."""


class SpeedupNotSupported(RequestError, code="SPEEDUP_NOT_SUPPORTED", status=400):
    """The device does not support a speed-up; `details["speedup"]` names it."""


class FramesNotFinite(RequestError, code="FRAMES_NOT_FINITE", status=400):
    """The denoised video holds values that are no numbers; `details["stage"]` is "denoise" or "decode"."""


class VideoInvalid(RequestError, code="VIDEO_INVALID", status=400):
    """The file is not an MP4, or carries no readable settings."""


class HubTokenNeeded(RequestError, code="HF_TOKEN_NEEDED", status=400):
    """The server ended before the downloads that need the request's `hf_token` were complete; tokens are not stored."""


class FetchFailed(RequestError, code="FETCH_FAILED", status=400):
    """A download failed or was refused; `details["host"]` names the host."""


class PayloadTooLarge(RequestError, code="PAYLOAD_TOO_LARGE", status=413):
    """A body, file or set of files is over its limit."""


class OriginRefused(RequestError, code="ORIGIN_REFUSED", status=403):
    """The request comes from a page of another site, or names an unknown host."""


class OwnerOnly(RequestError, code="OWNER_ONLY", status=403):
    """The owner of the server may do it, visitors may not."""


class CostTooHigh(RequestError, code="COST_TOO_HIGH", status=413):
    """The request asks for more frames × pixels than the server allows."""


class LoginRequired(RequestError, code="LOGIN_REQUIRED", status=401):
    """The request has no valid session, and the server has a password."""


class LoginFailed(RequestError, code="LOGIN_FAILED", status=401):
    """The password is wrong."""


class LoginLocked(RequestError, code="LOGIN_LOCKED", status=429):
    """Too many wrong passwords; `details["seconds"]`: how long to wait."""


class QueueFull(RequestError, code="QUEUE_FULL", status=429):
    """The queue is full; `details["limit"]`: how many jobs may wait."""


class TooManyStreams(RequestError, code="TOO_MANY_STREAMS", status=429):
    """One browser, or all of them together, have as many event streams open as may be."""


class TooManyRequests(RequestError, code="TOO_MANY_REQUESTS", status=429):
    """One browser, or all guests together, have too much under way at once; the same request can be sent again."""


class RequestNotFound(RequestError, code="REQUEST_NOT_FOUND", status=404):
    """There is no job of this id, or it belongs to somebody else."""


class VideoNotFound(RequestError, code="VIDEO_NOT_FOUND", status=404):
    """The job has no such video, or its file was deleted."""


class PictureNotFound(RequestError, code="PICTURE_NOT_FOUND", status=404):
    """A request has no live picture now: it is not denoised, its first is still to come, or the VAE has no map."""


class JobNotWatchable(RequestError, code="JOB_NOT_WATCHABLE", status=409):
    """The training job was not imported as a folder of this machine, or has no sample that can be rendered."""


class NotWatched(RequestError, code="NOT_WATCHED", status=404):
    """The training job is not watched."""


class ShareNotFound(RequestError, code="SHARE_NOT_FOUND", status=404):
    """There is no open share link of this id, or no link of this token."""


class ShareEnded(RequestError, code="SHARE_ENDED", status=410):
    """The share link has ended, was withdrawn, or what it showed was deleted."""


class PairNotFound(RequestError, code="PAIR_NOT_FOUND", status=404):
    """There is no such pair of a comparison's clips, or it was not shown to this session."""


class TooManyVotes(RequestError, code="TOO_MANY_VOTES", status=429):
    """The session has cast as many votes on this comparison as it may; `details["limit"]` is that number."""


class UploadNotFound(RequestError, code="UPLOAD_NOT_FOUND", status=404):
    """There is no such uploaded LoRA, first frame or training job, or it belongs to somebody else."""


class StillRunning(RequestError, code="STILL_RUNNING", status=409):
    """A queued or running job cannot be deleted, nor a file that one uses."""


class NotWaiting(RequestError, code="NOT_WAITING", status=409):
    """Only a waiting job can be moved to another position."""


class ModelInUse(RequestError, code="MODEL_IN_USE", status=409):
    """The loaded model cannot be freed while a video is rendered with it."""


class PreviewNotFound(RequestError, code="PREVIEW_NOT_FOUND", status=404):
    """There is no such imported training job, or nothing to compare a video with."""


class RouteNotFound(RequestError, code="ROUTE_NOT_FOUND", status=404):
    """There is nothing at this address."""


class HostError(WanUIError, code="HOST_ERROR", status=503):
    """The operator of this machine can fix this."""


class CheckpointNotFound(HostError, code="CHECKPOINT_NOT_FOUND", status=503):
    """The checkpoint is not on this machine and cannot be downloaded."""


class CheckpointIncomplete(HostError, code="CHECKPOINT_INCOMPLETE", status=503):
    """A file of the checkpoint is missing or damaged; the message names it."""


class CheckpointInvalid(HostError, code="CHECKPOINT_INVALID", status=503):
    """`details["file"]` is the file's name: a Git LFS pointer, a web page, damaged, or another model's weights."""


class CheckpointUnsupported(HostError, code="CHECKPOINT_UNSUPPORTED", status=503):
    """`details["file"]` is the file's name: another family of Wan models, or numbers in a format we cannot read."""


class DiskFull(HostError, code="DISK_FULL", status=507):
    """The disk, or a quota on it, is full."""


class OutOfMemory(HostError, code="OUT_OF_MEMORY", status=503):
    """The GPU memory does not suffice; the message says what to try."""


class TooManyOpenFiles(HostError, code="TOO_MANY_OPEN_FILES", status=503):
    """The process, or the machine, has no file descriptor left: nothing is wrong with the file that was opened."""


class DeviceUnavailable(HostError, code="DEVICE_UNAVAILABLE", status=503):
    """The device that was asked for does not exist or does not work."""


class VideoEncodingFailed(HostError, code="VIDEO_ENCODING_FAILED", status=500):
    """ffmpeg could not write or read a video."""


class DataFolderInUse(HostError, code="DATA_FOLDER_IN_USE", status=503):
    """Another server uses the data folder."""


class ShareFailed(HostError, code="SHARE_FAILED", status=503):
    """The public link could not be opened."""


class SlotLost(HostError, code="SLOT_LOST", status=503):
    """The process of a GPU ended or its GPU failed; `details["started"]` is false if it never became ready."""


class GroupLost(SlotLost, code="GROUP_LOST", status=503):
    """One of the GPUs that rendered a video together failed; `details["after"]` is the code of what went wrong."""


class SlotUnfit(HostError, code="SLOT_UNFIT", status=503):
    """A machine of the cluster lacks the model's checkpoint, or has another than the server."""


class ClusterUnavailable(HostError, code="CLUSTER_UNAVAILABLE", status=503):
    """The cluster cannot be joined, or the package `ray`, an extra, is not installed."""


class McpNotInstalled(HostError, code="MCP_NOT_INSTALLED", status=501):
    """The package `mcp`, an extra, is not installed."""


class RestartNeeded(HostError, code="RESTART_NEEDED", status=503):
    """This process cannot render any more: it ends with `exit_code`, so that a supervisor starts it again."""

    exit_code: ClassVar[int] = 70  # EX_SOFTWARE of sysexits.h


class DeviceLost(RestartNeeded, code="DEVICE_LOST", status=503):
    """The CUDA context is dead."""


class ExchangeFailed(RestartNeeded, code="EXCHANGE_FAILED", status=503):
    """GPUs that were to render a video together cannot exchange data, or what arrives is wrong."""


class RenderTimedOut(RestartNeeded, code="RENDER_TIMED_OUT", status=503):
    """A render took longer than --job-timeout."""


class QueueStopped(RestartNeeded, code="LINE_STOPPED", status=503):
    """The worker's thread ended unexpectedly."""


class RenderFailed(WanUIError, code="RENDER_FAILED", status=500):
    """An unexpected error while generating; the log has the traceback."""


class CellsFailed(WanUIError, code="CELLS_FAILED", status=500):
    """`details["cells"]` lists `{column, row, column_label, row_label, error}`, `error` being a `body()`.

    Where the comparison has a third axis, `page` and `page_label` too.
    """


class ServerBusy(WanUIError, code="SERVER_BUSY", status=503):
    """Too many slow requests at once; the same request can be sent again."""


class Cancelled(WanUIError, code="CANCELED", status=409):
    """The job was cancelled; raised between two denoising steps."""
