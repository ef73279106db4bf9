"""Fixtures for every room: a real store in a fresh data folder and a worker over the fake render."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import FakeRender, fake_desk, fake_write_video
from wan_ui.jobs.desk import Desk
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker


def pytest_collection_finish() -> None:
    """Lets each of the engine's garbage collections pass over what the thousands of tests themselves are made of."""
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
def desk(store: Store, worker: Worker, tmp_path: Path) -> Desk:
    return fake_desk(store, worker, tmp_path)
