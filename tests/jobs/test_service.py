"""The job service: submit, cancel, retry and where a clip is."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from tests.fakes import PATIENCE, FakeRender, fake_service
from tests.jobs.helpers import body
from wan_ui.access import LOCAL_ACCESS
from wan_ui.engine.fp8 import check_supported
from wan_ui.errors import InvalidRequest, LoraNotFound, RequestNotFound, SpeedupNotSupported, VideoNotFound
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.provenance.restoring import Environment

UNKNOWN = "f" * 32


def test_submit_answers_at_once_with_the_place_in_line(service: JobService) -> None:
    first, second = service.submit(body(-1), LOCAL_ACCESS), service.submit(body(2), LOCAL_ACCESS)
    assert (first.status, first.position, second.position) == ("in_queue", 1, 2)
    assert service.job(second.id, LOCAL_ACCESS).position == 2
    assert service.recent(10, LOCAL_ACCESS) == (second, first)
    assert service.recent(1, LOCAL_ACCESS) == (second,)
    assert service.job(first.id, LOCAL_ACCESS).generations == first.generations  # -1 was drawn once
    assert 0 <= first.generations[0].seed <= 2**31 - 2
    assert first.request["prompts"][0]["seed"] == -1


def test_a_refused_request_leaves_no_job(service: JobService) -> None:
    with pytest.raises(InvalidRequest):
        service.submit({**body(1), "colour": "red"}, LOCAL_ACCESS)
    with pytest.raises(LoraNotFound):
        service.submit({**body(1), "loras": [{"path": "none.safetensors"}]}, LOCAL_ACCESS)
    assert service.recent(10, LOCAL_ACCESS) == ()


def test_a_speedup_that_the_device_cannot_do_is_refused_before_it_waits(
    store: Store, worker: Worker, tmp_path: Path
) -> None:
    service = fake_service(
        store, worker, tmp_path, Environment(check_speedup=partial(check_supported, device=torch.device("mps")))
    )
    with pytest.raises(SpeedupNotSupported, match="8.9"):
        service.submit({**body(1), "speedup": "fp8_products"}, LOCAL_ACCESS)
    assert service.recent(10, LOCAL_ACCESS) == ()
    job = service.submit({**body(1), "speedup": "fp8_storage"}, LOCAL_ACCESS)
    assert job.generations[0].speedup == "fp8_storage"
    (note,) = (note for note in job.notes if "FP8" in note)
    assert "Against the exact videos" in note and " dB" in note


def test_notes_stay_with_the_job(service: JobService) -> None:
    job = service.submit(
        {"model": "wan21_1b", "prompts": [{"prompt": "x", "width": 100, "sampler": "ddim"}]}, LOCAL_ACCESS
    )
    assert job.notes == service.job(job.id, LOCAL_ACCESS).notes
    assert any("100 × 1024 became 96 × 1024" in note for note in job.notes)


@pytest.mark.parametrize("method", ["job", "cancel"])
def test_an_unknown_id_is_not_found(service: JobService, method: str) -> None:
    with pytest.raises(RequestNotFound):
        getattr(service, method)(UNKNOWN, LOCAL_ACCESS)
    with pytest.raises(RequestNotFound):
        service.clip_path(UNKNOWN, 0, LOCAL_ACCESS)
    assert service.progress(UNKNOWN) is None


def test_a_clips_path(service: JobService, worker: Worker, tmp_path: Path) -> None:
    worker.start()
    job = service.submit(body(1, 2), LOCAL_ACCESS)
    with pytest.raises(VideoNotFound):
        service.clip_path(job.id, 2, LOCAL_ACCESS)
    assert worker.wait(job.id, PATIENCE)
    path = service.clip_path(job.id, 1, LOCAL_ACCESS)
    assert path == tmp_path / service.job(job.id, LOCAL_ACCESS).clips[1].file
    assert path.parent == tmp_path / "clips" and path.suffix == ".mp4"
    path.unlink()
    with pytest.raises(VideoNotFound):
        service.clip_path(job.id, 1, LOCAL_ACCESS)
    assert service.clip_path(job.id, 0, LOCAL_ACCESS).is_file()


def test_the_pulse_changes_with_the_line_and_what_is_at_work(
    service: JobService, worker: Worker, render: FakeRender
) -> None:
    gate = render.gate(1, 1)
    worker.start()
    seen = [service.pulse()]
    assert service.pulse() == seen[0]
    first = service.submit(body(1), LOCAL_ACCESS)
    gate.await_arrival()
    seen.append(service.pulse())
    assert service.pulse() == seen[1]
    second = service.submit(body(2), LOCAL_ACCESS)
    seen.append(service.pulse())
    service.cancel(second.id, LOCAL_ACCESS)
    seen.append(service.pulse())
    gate.open()
    assert worker.wait(first.id, 10)
    seen.append(service.pulse())
    assert len(set(seen)) == len(seen)
