"""Settings and fixtures for every test: a real store in a fresh data folder and a worker over the fake render."""

from __future__ import annotations

import gc
import importlib.util
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fakes import FakeRender, fake_service, fake_write_video
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker

if TYPE_CHECKING:
    from wan_ui import Engine

SECONDS = {"browser": 4.0, "slow": 5.0}  # of a test with the mark, roughly
OTHERWISE = 0.05

if importlib.util.find_spec("hypothesis") is not None:  # a machine for the GPU tests need not have it
    from hypothesis import HealthCheck, settings

    # Examples that depend on the code alone, so that a test which passed passes again; and no limits of time, which a
    # busy machine exceeds.
    settings.register_profile(
        "wan-ui", derandomize=True, deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("wan-ui")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Passes over a file if all its tests have a mark that `-m` excludes: to import it may take seconds.

    Only for an expression such as `not browser and not slow`, and not for the GPU's, which are counted as deselected.
    """
    expression = config.option.markexpr
    if collection_path.suffix != ".py" or not re.fullmatch(r"not \w+( and not \w+)*", expression):
        return None
    excluded = set(re.findall(r"not (\w+)", expression)) - {"gpu"}
    marks = re.search(r"^pytestmark = (.*)$", collection_path.read_text(encoding="utf-8"), re.MULTILINE)
    return True if marks and excluded & set(re.findall(r"pytest\.mark\.(\w+)", marks[1])) else None


def pytest_configure() -> None:
    """Nothing that is imported for the tests is garbage: until they run, nobody looks for it."""
    gc.disable()


def pytest_collection_finish() -> None:
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest first: the processes share out whole files, and the last should be a short one."""
    weights: defaultdict[Path, float] = defaultdict(float)
    for item in items:
        weights[item.path] += max((SECONDS.get(mark.name, 0) for mark in item.iter_markers()), default=0) or OTHERWISE
    items.sort(key=lambda item: (-weights[item.path], item.path))


@pytest.fixture(scope="module", autouse=True)
def _left_behind() -> None:
    """Lets each of the engine's garbage collections pass over the tests themselves and over what earlier files left."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "jobs.sqlite")
    yield store
    store.close()


@pytest.fixture
def render() -> Iterator[FakeRender]:
    render = FakeRender()
    yield render
    for gate in render.gates.values():
        gate.open()


@pytest.fixture
def worker(store: Store, render: FakeRender, tmp_path: Path) -> Iterator[Worker]:
    """Not started: a test that wants it running calls start()."""
    worker = Worker(store, render, tmp_path / "clips", fake_write_video)
    yield worker
    for gate in render.gates.values():
        gate.open()
    assert worker.stop()


@pytest.fixture
def service(store: Store, worker: Worker, tmp_path: Path) -> JobService:
    return fake_service(store, worker, tmp_path)


@pytest.fixture(scope="module")
def engine(loras: Path) -> Iterator[Engine]:
    """An engine on the golden checkpoints, on the CPU; `loras` is the module's own folder of LoRA files."""
    from tests.golden_cases import CHECKPOINTS
    from wan_ui import Engine

    engine = Engine(models_dir=CHECKPOINTS, lora_dir=loras, device="cpu")
    yield engine
    engine.close()
