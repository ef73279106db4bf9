"""Creates the HTTP API, the app that is mounted at /v1."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from wan_ui._version import __version__
from wan_ui.access import Access
from wan_ui.api import (
    bases,
    comfyui,
    comparisons,
    continuation,
    docs,
    events,
    gallery,
    health,
    judging,
    loras,
    machine,
    models,
    requests,
    restore,
    shares,
    speed_loras,
    training_jobs,
    uploads,
    watches,
)
from wan_ui.api.dependencies import ApiState, SizeLimits
from wan_ui.api.error_responses import EXCEPTION_HANDLERS
from wan_ui.api.event_streams import EventStreams
from wan_ui.api.openapi import Api

if TYPE_CHECKING:
    from wan_ui.jobs.service import JobService

SIZE_LIMITS = SizeLimits()
ROUTERS = (
    requests,
    comfyui,
    continuation,
    events,
    comparisons,
    judging,
    gallery,
    shares,
    training_jobs,
    watches,
    loras,
    uploads,
    restore,
    machine,
    models,
    speed_loras,
    bases,
    health,
    docs,
)


def create_api(
    service: JobService,
    health: Callable[[], Mapping[str, Any]],
    access: Callable[[], Access],
    *,
    limits: SizeLimits = SIZE_LIMITS,
    scratch: pathlib.Path | None = None,
    streams: EventStreams | None = None,
    reference_errors: bool = False,
) -> Api:
    """The app to mount at /v1; ApiState says what the arguments are."""
    api = Api(
        title="wan-ui",
        version=__version__,
        description="LoRA inference for Wan video models.",
        docs_url=None,  # FastAPI's pages load their scripts from another site; see api/docs.py
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers=EXCEPTION_HANDLERS,
        generate_unique_id_function=lambda route: route.name,  # a route's operation id is its function's name
    )
    api.state.api = ApiState(
        service,
        health,
        access,
        limits,
        scratch,
        streams or EventStreams(lambda: service.pulse()),
        reference_errors,
    )
    for module in ROUTERS:
        api.include_router(module.router)
    return api
