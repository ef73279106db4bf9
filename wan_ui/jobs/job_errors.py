"""What a failed generation means for its job: the error that ends the job, or a mark on one cell of a comparison."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from wan_ui.compare import PlannedCell
from wan_ui.engine.result import Phase
from wan_ui.errors import (
    Cancelled,
    CellsFailed,
    HostError,
    OutOfMemory,
    RenderFailed,
    VideoEncodingFailed,
    WanUIError,
)

log = logging.getLogger(__name__)

T = TypeVar("T")


def attempt(work: Callable[[], T], job_id: str, index: int) -> T | WanUIError:
    """The result of `work` for generation `index` of a job, or the error that it raised, logged. Raises Cancelled."""
    about = {"request_id": job_id, "prompt": index}
    try:
        return work()
    except Cancelled:
        raise
    except WanUIError as error:
        log.warning("%s", error.message, extra={**about, "code": error.code})
        # Tracebacks hold the frames in which the error happened, and those hold the tensors of a whole render.
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    except Exception:  # the server's only broad except: the queue goes on, whatever a job raises
        log.exception("unexpected error", extra=about)
        return RenderFailed(
            "Unexpected error while generating. Details are in the server log "
            f"(request id {job_id}). Try again, or with other values."
        )


def prompt_error(error: WanUIError, index: int, count: int) -> Mapping[str, Any]:
    """The body of the error that ends a job of `count` prompts, with the index of the prompt that failed."""
    body = {**error.body(), "details": {**error.details, "prompt": index}}
    if count > 1:
        body["message"] = f"Prompt {index + 1} of {count}: {error.message}"
    return body


def affects_every_cell(error: WanUIError, phase: Phase) -> bool:
    """Whether the other cells of a comparison would fail in the same way, because the machine is at fault.

    A cell's own faults are running out of memory once the model is loaded, and a file that could not be encoded.
    """
    if isinstance(error, OutOfMemory):
        return phase in ("checking", "downloading", "loading")
    return isinstance(error, HostError) and not isinstance(error, VideoEncodingFailed)


def cells_failed(cells: Sequence[PlannedCell], failures: Mapping[int, Mapping[str, Any]]) -> CellsFailed:
    """The error of a comparison, some of whose cells failed. `failures` are error bodies by generation index."""
    failed = [cell for cell in cells if cell.generation in failures]
    first = ", ".join(failed[0].labels)
    rest = " The others are kept, and a retry renders only what failed." if len(failed) < len(cells) else ""
    return CellsFailed(
        f"{len(failed)} of {len(cells)} cells failed{f'; {first}' if first else ''}: "
        f"{failures[failed[0].generation]['message']}{rest}",
        cells=[{**cell.place, "error": failures[cell.generation]} for cell in failed],
    )
