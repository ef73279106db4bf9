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
│   └── RestartNeeded           503  this process cannot render any more and ends, to be started again
│       ├── DeviceLost              503  the CUDA context is dead
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

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = details

    def body(self) -> dict[str, Any]:
        """The error as the API sends and the job store keeps it: `{code, message, details}`."""
        return {"code": self.code, "message": self.message, "details": self.details}


class RequestError(WanUIError):
    """The client can fix this by changing the request."""

    code, status = "BAD_REQUEST", 400


class BadJson(RequestError):
    """The body is not JSON."""

    code, status = "BAD_JSON", 400


class InvalidRequest(RequestError):
    """`details["fields"]` is a list of `{loc, msg}`, `loc` being a path such as `prompts.0.width`."""

    code, status = "INVALID_REQUEST", 422


class JobConfigInvalid(RequestError):
    """`details["fields"]` as in InvalidRequest, `loc` being a path such as `config.process.0.model.arch`."""

    code, status = "JOB_CONFIG_INVALID", 422


class ModelNotFound(RequestError):
    """There is no model of this id; `details["models"]` lists the ids, as does the reference's `supported_models`."""

    code, status = "MODEL_NOT_FOUND", 400


class BaseNotFound(RequestError):
    """`details["candidates"]` lists the names that the request's `base` may hold for the component."""

    code, status = "BASE_NOT_FOUND", 400


class MoeFormatRequired(RequestError):
    """A model with two transformers needs `transformer` on each LoRA."""

    code, status = "MOE_FORMAT_REQUIRED", 400


class MoeFormatNotSupported(RequestError):
    """`transformer` was given for a model with one transformer."""

    code, status = "MOE_FORMAT_NOT_SUPPORTED", 400


class SingleMoeConfigOnly(RequestError):
    """Two LoRAs for the same transformer of a pair, without `stack`."""

    code, status = "SINGLE_MOE_CONFIG_ONLY", 400


class SingleLoraOnly(RequestError):
    """Two LoRAs for a model with one transformer, without `stack`."""

    code, status = "SINGLE_LORA_ONLY", 400


class LoraNotFound(RequestError):
    """There is no such LoRA file, upload or address."""

    code, status = "LORA_NOT_FOUND", 400


class LoraInvalid(RequestError):
    """The file is not a valid safetensors file, or holds no LoRA."""

    code, status = "LORA_INVALID", 400


class LoraMismatch(RequestError):
    """The LoRA was made for another model; `details["fits"]` lists the ids of those it fits, where known."""

    code, status = "LORA_MISMATCH", 400


class ControlImageRequired(RequestError):
    """An image-to-video model was asked for a video without a first frame."""

    code, status = "CONTROL_IMAGE_REQUIRED", 400


class ControlImageNotSupported(RequestError):
    """A text-to-video model was given a first frame."""

    code, status = "CONTROL_IMAGE_NOT_SUPPORTED", 400


class ControlImageInvalid(RequestError):
    """The first frame is not an image, unreadable, too large, or could not be downloaded."""

    code, status = "CONTROL_IMAGE_INVALID", 400


class SpeedupNotSupported(RequestError):
    """The device does not support a speed-up; `details["speedup"]` names it."""

    code, status = "SPEEDUP_NOT_SUPPORTED", 400


class FramesNotFinite(RequestError):
    """The denoised video holds values that are no numbers; `details["stage"]` is "denoise" or "decode"."""

    code, status = "FRAMES_NOT_FINITE", 400


class VideoInvalid(RequestError):
    """The file is not an MP4, or carries no readable settings."""

    code, status = "VIDEO_INVALID", 400


class HubTokenNeeded(RequestError):
    """The server ended before the downloads that need the request's `hf_token` were complete; tokens are not stored."""

    code, status = "HF_TOKEN_NEEDED", 400


class FetchFailed(RequestError):
    """A download failed or was refused; `details["host"]` names the host."""

    code, status = "FETCH_FAILED", 400


class PayloadTooLarge(RequestError):
    """A body, file or set of files is over its limit."""

    code, status = "PAYLOAD_TOO_LARGE", 413


class OriginRefused(RequestError):
    """The request comes from a page of another site, or names an unknown host."""

    code, status = "ORIGIN_REFUSED", 403


class OwnerOnly(RequestError):
    """The owner of the server may do it, visitors may not."""

    code, status = "OWNER_ONLY", 403


class CostTooHigh(RequestError):
    """The request asks for more frames × pixels than the server allows."""

    code, status = "COST_TOO_HIGH", 413


class LoginRequired(RequestError):
    """The request has no valid session, and the server has a password."""

    code, status = "LOGIN_REQUIRED", 401


class LoginFailed(RequestError):
    """The password is wrong."""

    code, status = "LOGIN_FAILED", 401


class LoginLocked(RequestError):
    """Too many wrong passwords; `details["seconds"]`: how long to wait."""

    code, status = "LOGIN_LOCKED", 429


class QueueFull(RequestError):
    """The queue is full; `details["limit"]`: how many jobs may wait."""

    code, status = "QUEUE_FULL", 429


class TooManyStreams(RequestError):
    """One browser, or all of them together, have as many event streams open as may be."""

    code, status = "TOO_MANY_STREAMS", 429


class TooManyRequests(RequestError):
    """One browser, or all guests together, have too much under way at once; the same request can be sent again."""

    code, status = "TOO_MANY_REQUESTS", 429


class RequestNotFound(RequestError):
    """There is no job of this id, or it belongs to somebody else."""

    code, status = "REQUEST_NOT_FOUND", 404


class VideoNotFound(RequestError):
    """The job has no such video, or its file was deleted."""

    code, status = "VIDEO_NOT_FOUND", 404


class PictureNotFound(RequestError):
    """A request has no live picture now: it is not denoised, its first is still to come, or the VAE has no map."""

    code, status = "PICTURE_NOT_FOUND", 404


class JobNotWatchable(RequestError):
    """The training job was not imported as a folder of this machine, or has no sample that can be rendered."""

    code, status = "JOB_NOT_WATCHABLE", 409


class NotWatched(RequestError):
    """The training job is not watched."""

    code, status = "NOT_WATCHED", 404


class ShareNotFound(RequestError):
    """There is no open share link of this id, or no link of this token."""

    code, status = "SHARE_NOT_FOUND", 404


class ShareEnded(RequestError):
    """The share link has ended, was withdrawn, or what it showed was deleted."""

    code, status = "SHARE_ENDED", 410


class PairNotFound(RequestError):
    """There is no such pair of a comparison's clips, or it was not shown to this session."""

    code, status = "PAIR_NOT_FOUND", 404


class TooManyVotes(RequestError):
    """The session has cast as many votes on this comparison as it may; `details["limit"]` is that number."""

    code, status = "TOO_MANY_VOTES", 429


class UploadNotFound(RequestError):
    """There is no such uploaded LoRA, first frame or training job, or it belongs to somebody else."""

    code, status = "UPLOAD_NOT_FOUND", 404


class StillRunning(RequestError):
    """A queued or running job cannot be deleted, nor a file that one uses."""

    code, status = "STILL_RUNNING", 409


class NotWaiting(RequestError):
    """Only a waiting job can be moved to another position."""

    code, status = "NOT_WAITING", 409


class ModelInUse(RequestError):
    """The loaded model cannot be freed while a video is rendered with it."""

    code, status = "MODEL_IN_USE", 409


class PreviewNotFound(RequestError):
    """There is no such imported training job, or nothing to compare a video with."""

    code, status = "PREVIEW_NOT_FOUND", 404


class RouteNotFound(RequestError):
    """There is nothing at this address."""

    code, status = "ROUTE_NOT_FOUND", 404


class HostError(WanUIError):
    """The operator of this machine can fix this."""

    code, status = "HOST_ERROR", 503


class CheckpointNotFound(HostError):
    """The checkpoint is not on this machine and cannot be downloaded."""

    code, status = "CHECKPOINT_NOT_FOUND", 503


class CheckpointIncomplete(HostError):
    """A file of the checkpoint is missing or damaged; the message names it."""

    code, status = "CHECKPOINT_INCOMPLETE", 503


class CheckpointInvalid(HostError):
    """`details["file"]` is the file's name: a Git LFS pointer, a web page, damaged, or another model's weights."""

    code, status = "CHECKPOINT_INVALID", 503


class CheckpointUnsupported(HostError):
    """`details["file"]` is the file's name: another family of Wan models, or numbers in a format we cannot read."""

    code, status = "CHECKPOINT_UNSUPPORTED", 503


class DiskFull(HostError):
    """The disk, or a quota on it, is full."""

    code, status = "DISK_FULL", 507


class OutOfMemory(HostError):
    """The GPU memory does not suffice; the message says what to try."""

    code, status = "OUT_OF_MEMORY", 503


class TooManyOpenFiles(HostError):
    """The process, or the machine, has no file descriptor left: nothing is wrong with the file that was opened."""

    code, status = "TOO_MANY_OPEN_FILES", 503


class DeviceUnavailable(HostError):
    """The device that was asked for does not exist or does not work."""

    code, status = "DEVICE_UNAVAILABLE", 503


class VideoEncodingFailed(HostError):
    """ffmpeg could not write or read a video."""

    code, status = "VIDEO_ENCODING_FAILED", 500


class DataFolderInUse(HostError):
    """Another server uses the data folder."""

    code, status = "DATA_FOLDER_IN_USE", 503


class ShareFailed(HostError):
    """The public link could not be opened."""

    code, status = "SHARE_FAILED", 503


class SlotLost(HostError):
    """The process of a GPU ended or its GPU failed; `details["started"]` is false if it never became ready."""

    code, status = "SLOT_LOST", 503


class McpNotInstalled(HostError):
    """The package `mcp`, an extra, is not installed."""

    code, status = "MCP_NOT_INSTALLED", 501


class RestartNeeded(HostError):
    """This process cannot render any more: it ends with `exit_code`, so that a supervisor starts it again."""

    code, status = "RESTART_NEEDED", 503
    exit_code: ClassVar[int] = 70  # EX_SOFTWARE of sysexits.h


class DeviceLost(RestartNeeded):
    """The CUDA context is dead."""

    code, status = "DEVICE_LOST", 503


class RenderTimedOut(RestartNeeded):
    """A render took longer than --job-timeout."""

    code, status = "RENDER_TIMED_OUT", 503


class QueueStopped(RestartNeeded):
    """The worker's thread ended unexpectedly."""

    code, status = "LINE_STOPPED", 503


class RenderFailed(WanUIError):
    """An unexpected error while generating; the log has the traceback."""

    code, status = "RENDER_FAILED", 500


class CellsFailed(WanUIError):
    """`details["cells"]` lists `{column, row, column_label, row_label, error}`, `error` being a `body()`."""

    code, status = "CELLS_FAILED", 500


class ServerBusy(WanUIError):
    """Too many slow requests at once; the same request can be sent again."""

    code, status = "SERVER_BUSY", 503


class Cancelled(WanUIError):
    """The job was cancelled; raised between two denoising steps."""

    code, status = "CANCELED", 409
