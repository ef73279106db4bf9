"""GET /metrics in Prometheus' text format: jobs by state, readiness, seconds per phase."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wan_ui._version import __version__
from wan_ui.errors import WanUIError
from wan_ui.web.asgi import error_response

PATH = "/metrics"
# From a step of the demo to an hour of denoising.
BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1200, 3600)

Counts = Callable[[], Mapping[Any, int]]


class _QueueCollector(Collector):
    """Counts the jobs at each scrape, so that the metrics never differ from the job store."""

    def __init__(self, counts: Counts, is_ready: Callable[[], bool]) -> None:
        self._counts = counts
        self._is_ready = is_ready

    def collect(self) -> Iterable[Metric]:
        jobs = GaugeMetricFamily("wan_ui_jobs", "Jobs by state.", labels=["status"])
        for status, number in self._counts().items():
            jobs.add_metric([status], number)
        yield jobs
        yield GaugeMetricFamily("wan_ui_ready", "1 when the engine can render.", value=float(self._is_ready()))
        info = InfoMetricFamily("wan_ui", "Version of wan-ui.")
        info.add_metric([], {"version": __version__})
        yield info


class SlotShown(Protocol):
    """A slot as `jobs.dispatcher.SlotState` describes it."""

    def body(self) -> Mapping[str, Any]:
        """The slot as /v1/health sends it."""
        ...


class _SlotCollector(Collector):
    """Reads the slots at each scrape."""

    def __init__(self, slots: Callable[[], Iterable[SlotShown]]) -> None:
        self._slots = slots

    def collect(self) -> Iterable[Metric]:
        state = GaugeMetricFamily(
            "wan_ui_slot", "1 for each GPU's state and loaded model.", labels=["slot", "state", "model"]
        )
        left = GaugeMetricFamily("wan_ui_slot_seconds_left", "Of the denoising of a GPU's clip.", labels=["slot"])
        failures = CounterMetricFamily(
            "wan_ui_slot_failures", "How often a GPU's process ended in the middle of a clip.", labels=["slot"]
        )
        for slot in self._slots():
            body = slot.body()
            state.add_metric([body["name"], body["state"], body["model"] or ""], 1)
            left.add_metric([body["name"]], body["seconds_left"] or 0.0)
            failures.add_metric([body["name"]], body["failures"])
        yield from (state, left, failures)


class Metrics:
    """The metrics of one server. `observe` may be called from any thread."""

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
        """Adds the number of jobs by state and whether the engine can render. To be called once."""
        self._registry.register(_QueueCollector(counts, is_ready))

    def watch_slots(self, slots: Callable[[], Iterable[SlotShown]]) -> None:
        """Adds what each GPU does, where several are in use. To be called once."""
        self._registry.register(_SlotCollector(slots))

    def observe(self, phase: str, seconds: float) -> None:
        """Records a phase that ended."""
        self._phases.labels(phase).observe(seconds)

    def route(self) -> Route:
        """GET /metrics. A job store that cannot be read is answered with an error in the form of /v1."""

        def scrape(_request: Request) -> Response:
            try:
                return Response(generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
            except WanUIError as error:
                return error_response(error)

        return Route(PATH, scrape, methods=["GET"])
