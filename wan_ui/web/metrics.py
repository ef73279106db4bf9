"""GET /metrics in Prometheus' text format: jobs by state, seconds per phase; it knows counts, not what they count."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import wan_ui
from wan_ui.errors import WanUIError

PATH = "/metrics"
# From a step of the demo to an hour of denoising.
BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1200, 3600)

Counts = Callable[[], Mapping[Any, int]]


class _Line(Collector):
    """Asked anew at each scrape, so that it can never differ from the list of jobs."""

    def __init__(self, counts: Counts, is_ready: Callable[[], bool]) -> None:
        self._counts = counts
        self._is_ready = is_ready

    def collect(self) -> Iterable[Metric]:
        jobs = GaugeMetricFamily("wan_ui_jobs", "Jobs in the list, by state.", labels=["status"])
        for status, number in self._counts().items():
            jobs.add_metric([status], number)
        yield jobs
        yield GaugeMetricFamily("wan_ui_ready", "1 when the engine can render.", value=float(self._is_ready()))
        info = InfoMetricFamily("wan_ui", "What runs.")
        info.add_metric([], {"version": wan_ui.__version__})
        yield info


class Metrics:
    """What a server counts. `observe` may be called from any thread."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        self._phases = Histogram(
            "wan_ui_phase_seconds",
            "Seconds of each phase of making one video.",
            ["phase"],
            buckets=BUCKETS,
            registry=self._registry,
        )

    def watch(self, counts: Counts, is_ready: Callable[[], bool]) -> None:
        """Adds the line: jobs by state, and whether there is an engine. Once."""
        self._registry.register(_Line(counts, is_ready))

    def observe(self, phase: str, seconds: float) -> None:
        """A phase that ended."""
        self._phases.labels(phase).observe(seconds)

    def route(self) -> Route:
        """GET /metrics. A list of jobs that cannot be read is answered as an error of /v1 is."""

        def scrape(_request: Request) -> Response:
            try:
                return Response(generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
            except WanUIError as error:
                return JSONResponse({"detail": {"error": error.body()}}, error.status)

        return Route(PATH, scrape, methods=["GET"])
