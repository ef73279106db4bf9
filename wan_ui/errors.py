"""What can go wrong, whose move it is, and how it is said; it knows nothing of doors or frameworks.

WanUIError
├── RequestError            the sender's move: change the request
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
│   ├── LoraInvalid             400  not a sound safetensors file, or no LoRA in it
│   ├── LoraMismatch            400  a LoRA made for another model
│   ├── ControlImageRequired    400
│   ├── ControlImageNotSupported 400
│   ├── SpeedupNotSupported     400  the device cannot do it
│   ├── ControlImageInvalid     400  no image, unreadable, too large, or not fetched
│   ├── VideoInvalid            400  a video that carries no settings, or none that can be read
│   ├── FetchFailed             400  an address that is refused, silent, too slow or too large
│   ├── PayloadTooLarge         413
│   ├── CostTooHigh             413  more frames × pixels than --max-cost
│   ├── OriginRefused           403  a page of another site, or an unknown Host
│   ├── LoginRequired           401  no password yet
│   ├── LoginFailed             401  a wrong one
│   ├── LoginLocked             429  too many wrong ones
│   ├── QueueFull               429  as many requests wait as may
│   ├── RequestNotFound         404
│   ├── VideoNotFound           404
│   ├── StillRunning            409  what waits or runs cannot be deleted
│   ├── PreviewNotFound         404  no such imported training job, or nothing to compare a video with
│   └── RouteNotFound           404
├── HostError               the operator's move: disk, memory, files, device
│   ├── CheckpointNotFound      503
│   ├── CheckpointIncomplete    503  names the missing file
│   ├── CheckpointInvalid       503  a file that is no checkpoint, or one of another model; names the file
│   ├── CheckpointUnsupported   503  another Wan family, or a number format that cannot be read; names the file
│   ├── DiskFull                507
│   ├── OutOfMemory             503  GPU memory; says what to try
│   ├── DeviceUnavailable       503
│   ├── VideoEncodingFailed     500
│   ├── DataFolderInUse         503  another server holds the data folder
│   ├── ShareFailed             503  no public link
│   └── RestartNeeded           503  this process can render no more and ends, to be started again
│       ├── DeviceLost              503  the CUDA context is dead
│       ├── RenderTimedOut          503  a render took longer than --job-timeout
│       └── LineStopped             503  the worker's thread ended
├── RenderFailed            500  ours: a failure that nothing above names
├── CellsFailed             500  some videos of a comparison; each says why
├── ServerBusy              503  too many slow answers are being worked on; nobody's mistake, to be asked again
└── Cancelled               409  nobody's mistake: somebody asked for it
"""

from __future__ import annotations

from typing import Any, ClassVar


class WanUIError(Exception):
    """Base of everything this project raises on purpose.

    `message` is one or two sentences for the person at the page or behind the HTTP client: what happened and
    what to do. `details` is a JSON-ready mapping. Neither ever holds a secret or an absolute server path.
    """

    code: ClassVar[str] = "ERROR"
    status: ClassVar[int] = 500

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = details

    def body(self) -> dict[str, Any]:
        """The error as it goes over the wire and into the job store: `{code, message, details}`."""
        return {"code": self.code, "message": self.message, "details": self.details}


class RequestError(WanUIError):
    """The sender can mend this by changing the request."""

    code, status = "BAD_REQUEST", 400


class BadJson(RequestError):
    code, status = "BAD_JSON", 400


class InvalidRequest(RequestError):
    """`details["fields"]` is a list of `{loc, msg}`, `loc` being a path such as `prompts.0.width`."""

    code, status = "INVALID_REQUEST", 422


class JobConfigInvalid(RequestError):
    """`details["fields"]` as in InvalidRequest, `loc` being a path such as `config.process.0.model.arch`."""

    code, status = "JOB_CONFIG_INVALID", 422


class ModelNotFound(RequestError):
    code, status = "MODEL_NOT_FOUND", 400


class BaseNotFound(RequestError):
    """`details["candidates"]` lists the names that the request's `base` may hold for the component."""

    code, status = "BASE_NOT_FOUND", 400


class MoeFormatRequired(RequestError):
    code, status = "MOE_FORMAT_REQUIRED", 400


class MoeFormatNotSupported(RequestError):
    code, status = "MOE_FORMAT_NOT_SUPPORTED", 400


class SingleMoeConfigOnly(RequestError):
    code, status = "SINGLE_MOE_CONFIG_ONLY", 400


class SingleLoraOnly(RequestError):
    code, status = "SINGLE_LORA_ONLY", 400


class LoraNotFound(RequestError):
    code, status = "LORA_NOT_FOUND", 400


class LoraInvalid(RequestError):
    code, status = "LORA_INVALID", 400


class LoraMismatch(RequestError):
    """`details["fits"]` lists the ids of the models the file would fit, when that can be known."""

    code, status = "LORA_MISMATCH", 400


class ControlImageRequired(RequestError):
    code, status = "CONTROL_IMAGE_REQUIRED", 400


class ControlImageNotSupported(RequestError):
    code, status = "CONTROL_IMAGE_NOT_SUPPORTED", 400


class ControlImageInvalid(RequestError):
    code, status = "CONTROL_IMAGE_INVALID", 400


class SpeedupNotSupported(RequestError):
    """`details["speedup"]`: which."""

    code, status = "SPEEDUP_NOT_SUPPORTED", 400


class VideoInvalid(RequestError):
    code, status = "VIDEO_INVALID", 400


class FetchFailed(RequestError):
    code, status = "FETCH_FAILED", 400


class PayloadTooLarge(RequestError):
    code, status = "PAYLOAD_TOO_LARGE", 413


class OriginRefused(RequestError):
    code, status = "ORIGIN_REFUSED", 403


class CostTooHigh(RequestError):
    code, status = "COST_TOO_HIGH", 413


class LoginRequired(RequestError):
    code, status = "LOGIN_REQUIRED", 401


class LoginFailed(RequestError):
    code, status = "LOGIN_FAILED", 401


class LoginLocked(RequestError):
    """`details["seconds"]`: how long to wait."""

    code, status = "LOGIN_LOCKED", 429


class QueueFull(RequestError):
    """`details["limit"]`: how many may wait."""

    code, status = "QUEUE_FULL", 429


class RequestNotFound(RequestError):
    code, status = "REQUEST_NOT_FOUND", 404


class VideoNotFound(RequestError):
    code, status = "VIDEO_NOT_FOUND", 404


class StillRunning(RequestError):
    code, status = "STILL_RUNNING", 409


class PreviewNotFound(RequestError):
    code, status = "PREVIEW_NOT_FOUND", 404


class RouteNotFound(RequestError):
    code, status = "ROUTE_NOT_FOUND", 404


class HostError(WanUIError):
    """The operator of this machine can mend this."""

    code, status = "HOST_ERROR", 503


class CheckpointNotFound(HostError):
    code, status = "CHECKPOINT_NOT_FOUND", 503


class CheckpointIncomplete(HostError):
    code, status = "CHECKPOINT_INCOMPLETE", 503


class CheckpointInvalid(HostError):
    """`details["file"]` is the file's name: a Git LFS pointer, a web page, damaged, or another model's weights."""

    code, status = "CHECKPOINT_INVALID", 503


class CheckpointUnsupported(HostError):
    """`details["file"]` is the file's name: another family of Wan models, or numbers in a format we cannot read."""

    code, status = "CHECKPOINT_UNSUPPORTED", 503


class DiskFull(HostError):
    code, status = "DISK_FULL", 507


class OutOfMemory(HostError):
    code, status = "OUT_OF_MEMORY", 503


class DeviceUnavailable(HostError):
    code, status = "DEVICE_UNAVAILABLE", 503


class VideoEncodingFailed(HostError):
    code, status = "VIDEO_ENCODING_FAILED", 500


class DataFolderInUse(HostError):
    code, status = "DATA_FOLDER_IN_USE", 503


class ShareFailed(HostError):
    code, status = "SHARE_FAILED", 503


class RestartNeeded(HostError):
    """This process can render no more: it ends with `exit_code`, so that a supervisor starts it again."""

    code, status = "RESTART_NEEDED", 503
    exit_code: ClassVar[int] = 70  # EX_SOFTWARE of sysexits.h


class DeviceLost(RestartNeeded):
    code, status = "DEVICE_LOST", 503


class RenderTimedOut(RestartNeeded):
    code, status = "RENDER_TIMED_OUT", 503


class LineStopped(RestartNeeded):
    code, status = "LINE_STOPPED", 503


class RenderFailed(WanUIError):
    """Something broke that none of the types above names; the log has the trace, the user has the next step."""

    code, status = "RENDER_FAILED", 500


class CellsFailed(WanUIError):
    """`details["cells"]` lists `{column, row, column_label, row_label, error}`, `error` being a `body()`."""

    code, status = "CELLS_FAILED", 500


class ServerBusy(WanUIError):
    """Too many slow answers at once; the same request is answered when some of them are through."""

    code, status = "SERVER_BUSY", 503


class Cancelled(WanUIError):
    """Raised between two denoising steps when the job's owner asked for it."""

    code, status = "CANCELED", 409
