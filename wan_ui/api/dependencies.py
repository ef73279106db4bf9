"""What routes are given through Depends: the job service, the sender's access, the server's address, the body."""

from __future__ import annotations

import pathlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import Depends, Path, Request

from wan_ui.access import Access
from wan_ui.api.bodies import Received, decode_json, is_form, most_bytes, read_body, receive_file
from wan_ui.api.concurrency import BoundedThreads, ByteBudget, Latest
from wan_ui.api.event_streams import EventStreams
from wan_ui.files import PART_PREFIX
from wan_ui.jobs.service import JobService
from wan_ui.turns import Turns

INSPECT_THREADS = 4  # each may wait minutes for another host, so they are not the threads of the other routes
INSPECT_WAITING = 16
IMPORT_WAITING = 16  # training jobs: one is being unpacked, which takes a processor, the others wait for it
SAMPLE_THREADS, SAMPLES_WAITING = 2, 64  # training samples: one is decoded at a time, others may be made already
DOWNLOADS = 8  # of comparisons: one is being made, the others wait for it
POSTERS = 8  # each runs ffmpeg
LARGE_BYTES = 1 << 20  # of a body that is decoded in a thread, one at a time
BODIES_OF_ALL, BODIES_EACH = 320 << 20, 160 << 20  # bytes of larger bodies being received, of all and of one browser


@dataclass(frozen=True)
class SizeLimits:
    """The most bytes of a request for videos, of any other JSON body, and of an uploaded file.

    Control images are in a request for videos as base64.
    """

    body: int = 80 * 2**20
    small_body: int = 256 * 2**10
    file: int = 8 << 30


@dataclass(frozen=True)
class ApiState:
    """What the routes of one server share; `app.state.api`.

    `health` returns `{status, version, device, queue}` and `access` the access of the request that is being answered.
    Uploaded files lie in the folder `scratch` while they are handled.
    `streams` are the open event streams. `reference_errors`: errors have the reference server's form
    (--compat reference). `public_url` returns the address of the public link, None while there is none.
    """

    service: JobService
    health: Callable[[], Mapping[str, Any]]
    access: Callable[[], Access]
    limits: SizeLimits
    scratch: pathlib.Path | None
    streams: EventStreams
    reference_errors: bool = False
    public_url: Callable[[], str | None] = lambda: None
    inspections: BoundedThreads = field(
        default_factory=lambda: BoundedThreads(
            INSPECT_THREADS, INSPECT_WAITING, "Many files are being inspected. Try again in a few seconds."
        )
    )
    imports: BoundedThreads = field(
        default_factory=lambda: BoundedThreads(
            1, IMPORT_WAITING, "Other training jobs are being imported. Try again in a few seconds."
        )
    )
    samples: BoundedThreads = field(
        default_factory=lambda: BoundedThreads(
            SAMPLE_THREADS, SAMPLES_WAITING, "Many samples are being read. Try again in a few seconds."
        )
    )
    downloads: Turns = field(
        default_factory=lambda: Turns(
            None, "Several downloads of comparisons are being made. Try again in a few seconds.", waiting=DOWNLOADS - 1
        )
    )
    posters: Turns = field(
        default_factory=lambda: Turns(
            None, "Many posters are being made. Try again in a few seconds.", waiting=POSTERS - 1
        )
    )

    bodies: ByteBudget = field(
        default_factory=lambda: ByteBudget(
            BODIES_OF_ALL, BODIES_EACH, "Other large requests are being received. Try again in a few seconds."
        )
    )
    decoding: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(1))

    async def decode(self, data: bytes) -> Any:
        """A body as JSON values. Large ones one at a time, with as long a rest: no other thread runs meanwhile.

        Raises what `decode_json` raises.
        """
        if len(data) <= self.limits.small_body:
            return decode_json(data)
        async with self.decoding:
            begun = time.monotonic()
            try:
                return await anyio.to_thread.run_sync(decode_json, data)
            finally:
                await anyio.sleep(time.monotonic() - begun)

    @cached_property
    def latest_health(self) -> Latest[Mapping[str, Any]]:
        """`health`, called in a thread of its own."""
        return Latest(self.health)

    def folder(self) -> tempfile.TemporaryDirectory[str]:
        """A new folder in `scratch` for files of one request."""
        return tempfile.TemporaryDirectory(prefix=PART_PREFIX, dir=self.scratch)


async def _state(request: Request) -> ApiState:
    state: ApiState = request.app.state.api
    return state


State = Annotated[ApiState, Depends(_state)]


async def _service(state: State) -> JobService:
    return state.service


async def _access(state: State) -> Access:
    return state.access()


async def _root(request: Request) -> str:
    """Where the API is, by the request's own scheme and Host: `http://127.0.0.1:7860/v1`."""
    return f"{request.url.scheme}://{request.url.netloc}{request.scope.get('root_path', '').rstrip('/')}"


async def _json(request: Request, state: State) -> Any:
    return None if is_form(request) else decode_json(await read_body(request, state.limits.small_body))


async def _large_json(request: Request, state: State, access: Annotated[Access, Depends(_access)]) -> Any:
    most = most_bytes(request, state.limits.body)
    with state.bodies.hold(access.identity, 0 if most <= LARGE_BYTES else most):
        return await state.decode(await read_body(request, state.limits.body))


async def _file(request: Request, state: State) -> AsyncIterator[Received]:
    with state.folder() as folder:
        yield await receive_file(request, pathlib.Path(folder), state.limits.file, state.service.quota_problem)


async def _file_of_form(request: Request, state: State) -> AsyncIterator[Received | None]:
    if not is_form(request):
        yield None
        return
    with state.folder() as folder:
        yield await receive_file(request, pathlib.Path(folder), state.limits.file, state.service.quota_problem)


Service = Annotated[JobService, Depends(_service)]
CurrentAccess = Annotated[Access, Depends(_access)]
Root = Annotated[str, Depends(_root)]
Json = Annotated[Any, Depends(_json)]
"""The JSON body, a small one; None if the body is a form."""
LargeJson = Annotated[Any, Depends(_large_json)]
"""The JSON body of a request for videos."""
UploadedFile = Annotated[Received, Depends(_file)]
"""The file of a form. Raises InvalidRequest for any other body."""
FileOfForm = Annotated[Received | None, Depends(_file_of_form)]
"""The file of a form; None if the body is none."""
RequestId = Annotated[str, Path(description="From the response to POST /inference.", max_length=200)]
