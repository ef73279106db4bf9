"""The desk: what a door gets back."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from tests.fakes import PATIENCE, FakeRender, fake_desk
from tests.jobs.helpers import body
from wan_ui.carried import Here
from wan_ui.engine.lossy import check
from wan_ui.errors import InvalidRequest, LoraNotFound, RequestNotFound, SpeedupNotSupported, VideoNotFound
from wan_ui.jobs.desk import Desk
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker

UNKNOWN = "f" * 32


def test_submit_answers_at_once_with_the_place_in_line(desk: Desk) -> None:
    first, second = desk.submit(body(-1)), desk.submit(body(2))
    assert (first.status, first.position, second.position) == ("in_queue", 1, 2)
    assert desk.position(second.id) == 2
    assert desk.recent(10) == (second, first)
    assert desk.recent(1) == (second,)
    assert desk.job(first.id).generations == first.generations  # -1 was drawn once
    assert 0 <= first.generations[0].seed <= 2**31 - 2
    assert first.request["prompts"][0]["seed"] == -1


def test_a_refused_request_leaves_no_job(desk: Desk) -> None:
    with pytest.raises(InvalidRequest):
        desk.submit({**body(1), "colour": "red"})
    with pytest.raises(LoraNotFound):
        desk.submit({**body(1), "loras": [{"path": "none.safetensors"}]})
    assert desk.recent(10) == ()


def test_a_speedup_that_the_device_cannot_do_is_refused_before_it_waits(
    store: Store, worker: Worker, tmp_path: Path
) -> None:
    desk = fake_desk(store, worker, tmp_path, Here(check_speedup=partial(check, device=torch.device("mps"))))
    with pytest.raises(SpeedupNotSupported, match="8.9"):
        desk.submit({**body(1), "speedup": "fp8_products"})
    assert desk.recent(10) == ()
    job = desk.submit({**body(1), "speedup": "fp8_storage"})
    assert job.generations[0].speedup == "fp8_storage"
    (note,) = (note for note in job.notes if "FP8" in note)
    assert "Against the exact videos" in note and " dB" in note


def test_notes_stay_with_the_job(desk: Desk) -> None:
    job = desk.submit({"model": "wan21_1b", "prompts": [{"prompt": "x", "width": 100, "sampler": "ddim"}]})
    assert job.notes == desk.job(job.id).notes
    assert any("100 × 1024 became 96 × 1024" in note for note in job.notes)


@pytest.mark.parametrize("method", ["job", "cancel", "position"])
def test_an_unknown_id_is_not_found(desk: Desk, method: str) -> None:
    with pytest.raises(RequestNotFound):
        getattr(desk, method)(UNKNOWN)
    with pytest.raises(RequestNotFound):
        desk.clip_path(UNKNOWN, 0)
    assert desk.progress(UNKNOWN) is None


def test_a_clips_path(desk: Desk, worker: Worker, tmp_path: Path) -> None:
    worker.start()
    job = desk.submit(body(1, 2))
    with pytest.raises(VideoNotFound):
        desk.clip_path(job.id, 2)
    assert worker.wait(job.id, PATIENCE)
    path = desk.clip_path(job.id, 1)
    assert path == tmp_path / desk.job(job.id).clips[1].file
    assert path.parent == tmp_path / "clips" and path.suffix == ".mp4"
    path.unlink()
    with pytest.raises(VideoNotFound):
        desk.clip_path(job.id, 1)
    assert desk.clip_path(job.id, 0).is_file()


def test_the_pulse_changes_with_the_line_and_what_is_at_work(desk: Desk, worker: Worker, render: FakeRender) -> None:
    gate = render.gate(1, 1)
    worker.start()
    seen = [desk.pulse()]
    assert desk.pulse() == seen[0]
    first = desk.submit(body(1))
    gate.await_arrival()
    seen.append(desk.pulse())
    assert desk.pulse() == seen[1]
    second = desk.submit(body(2))
    seen.append(desk.pulse())
    desk.cancel(second.id)
    seen.append(desk.pulse())
    gate.open()
    assert worker.wait(first.id, 10)
    seen.append(desk.pulse())
    assert len(set(seen)) == len(seen)
