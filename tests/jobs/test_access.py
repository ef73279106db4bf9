"""The desk as each kind of visitor sees it: over a real store, a real library and a real image store."""

from __future__ import annotations

import dataclasses
import io
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.fakes import FakeRender
from tests.lora_files import write_lora
from wan_ui.errors import ControlImageInvalid, LoraNotFound, RequestNotFound
from wan_ui.identity import Identity
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.jobs.visitor_service import VisitorJobService, hidden_id
from wan_ui.jobs.worker import Worker
from wan_ui.lora.header import no_configs
from wan_ui.lora.library import Library
from wan_ui.media.image import ImageStore

ONE, OTHER, NOBODY, OWNER = (
    Identity("1" * 32, False),
    Identity("2" * 32, False),
    Identity(None, False),
    Identity("3" * 32, True),
)
BODY: dict[str, Any] = {"model": "wan21_1b", "prompts": [{"prompt": "a secret garden", "num_frames": 5}]}


def no_fetch(url: str) -> bytes:
    raise AssertionError(url)


class House:
    def __init__(self, folder: Path, store: Store, worker: Worker) -> None:
        (folder / "uploads").mkdir()
        (folder / "loras").mkdir()
        self.folder = folder
        self.service = JobService(
            Library(folder / "loras", folder / "uploads"),
            ImageStore(folder / "images", no_fetch),
            store,
            worker,
            no_configs,
            folder,
        )

    def as_(self, who: Identity, shared: bool = False) -> VisitorJobService:
        return VisitorJobService(self.service, lambda: who, shared)

    def upload(self, who: Identity, name: str, seed: int = 1) -> str:
        made = self.folder / f"made-{seed}.safetensors"
        if not made.is_file():  # written again, its bytes would differ
            write_lora(made, width=1536, ffn=8960, blocks=1, rank=1, seed=seed)
        shutil.copy(made, self.folder / "sent")
        return self.as_(who).library.add_upload(self.folder / "sent", name)


@pytest.fixture
def services(tmp_path: Path, store: Store, worker: Worker) -> House:
    return House(tmp_path, store, worker)


def wearing(source: str) -> dict[str, Any]:
    return BODY | {"loras": [{"path": source}]}


def test_a_browsers_job_is_its_own(services: House) -> None:
    job = services.as_(ONE).submit(BODY)
    assert services.as_(ONE).job(job.id).id == job.id and services.as_(OWNER).job(job.id).id == job.id
    assert (
        services.as_(ONE).is_mine(job) and not services.as_(OTHER).is_mine(job) and not services.as_(OWNER).is_mine(job)
    )
    for stranger in (OTHER, NOBODY):
        for ask in (services.as_(stranger).job, services.as_(stranger).cancel, services.as_(stranger).retry):
            with pytest.raises(RequestNotFound):
                ask(job.id)
        with pytest.raises(RequestNotFound):
            services.as_(stranger).clip_path(job.id, 0)
        assert services.as_(stranger).recent(10) == ()
    assert [seen.id for seen in services.as_(ONE).recent(10)] == [job.id]
    assert services.as_(ONE).cancel(job.id).status == "canceled"


def test_the_owner_sees_and_ends_everything(services: House) -> None:
    job = services.as_(ONE).submit(BODY)
    assert services.as_(OWNER).line()[0].generations[0].prompt == "a secret garden"
    assert [seen.id for seen in services.as_(OWNER).recent(10)] == [job.id]
    assert services.as_(OWNER).cancel(job.id).status == "canceled"


def test_over_http_the_id_is_what_lets_one_read(services: House) -> None:
    job = services.as_(NOBODY).submit(BODY)
    for who in (NOBODY, ONE, OTHER):
        assert services.as_(who).job(job.id).id == job.id
        assert job.id not in str(services.as_(who).line()) and services.as_(who).recent(10) == ()
    assert services.as_(OTHER, shared=True).recent(10) == ()
    assert services.as_(NOBODY).cancel(job.id).status == "canceled"


def test_the_queue_says_of_anothers_job_nothing_but_model_and_place(services: House) -> None:
    job = services.as_(ONE).submit(wearing(services.upload(ONE, "private.safetensors")))
    (seen,) = services.as_(OTHER).line()
    assert seen.hidden and seen.id == hidden_id(job.id) and seen.position == 1
    text = str(dataclasses.asdict(seen))
    for secret in (job.id, "secret garden", "private", ONE.visitor or "-", job.generations[0].loras[0].path):
        assert secret not in text
    assert not services.as_(OTHER).may_change(seen)
    assert not services.as_(ONE).line()[0].hidden


def test_of_anothers_running_job_the_progress_has_no_names(services: House, worker: Worker, render: FakeRender) -> None:
    gate = render.gate(42, 2)
    job = services.as_(ONE).submit(BODY)
    worker.start()
    gate.await_arrival()
    (seen,) = services.as_(OTHER).line()
    progress = services.as_(OTHER).progress(seen.id)
    assert progress is not None and (progress.phase, progress.step, progress.note) == ("denoise", 1, "")
    assert services.as_(OTHER).running(job.id) is None
    assert services.as_(ONE).running(job.id) is not None
    gate.open()


def test_a_shared_gallery_is_for_reading(services: House) -> None:
    job = services.as_(ONE).submit(BODY)
    guest = services.as_(OTHER, shared=True)
    assert guest.job(job.id).id == job.id and [seen.id for seen in guest.recent(10)] == [job.id]
    assert guest.line()[0].generations[0].prompt == "a secret garden"
    for change in (guest.cancel, guest.retry):
        with pytest.raises(RequestNotFound):
            change(job.id)
    assert not guest.may_change(guest.line()[0])


def test_an_upload_is_its_browsers(services: House) -> None:
    source = services.upload(ONE, "style.safetensors")
    assert services.as_(ONE).submit(wearing(source)).status == "in_queue"
    assert services.as_(OWNER).inspect(source)["type"] == "lora"
    for stranger in (OTHER, NOBODY):
        for ask in (
            lambda service: service.submit(wearing(source)),
            lambda service: service.plan(wearing(source)),
            lambda service: service.inspect(source),
            lambda service: service.inspect_lora(source),
            lambda service: service.library.partner(source),
        ):
            with pytest.raises(LoraNotFound, match="no such upload"):
                ask(services.as_(stranger))


def test_the_same_file_from_two_browsers_is_kept_once_and_both_may_use_it(services: House) -> None:
    first, second = services.upload(ONE, "style.safetensors"), services.upload(OTHER, "style.safetensors")
    assert first == second
    for who in (ONE, OTHER):
        assert services.as_(who).library.locate(first).name == "style.safetensors"


def test_the_other_half_is_looked_for_among_ones_own(services: House) -> None:
    high = services.upload(ONE, "a_high_noise.safetensors", seed=1)
    theirs = services.upload(OTHER, "a_low_noise.safetensors", seed=2)
    assert services.as_(ONE).library.partner(high) is None
    low = services.upload(ONE, "a_low_noise.safetensors", seed=3)
    assert services.as_(ONE).library.partner(high) == low != theirs


def test_a_first_frame_is_its_browsers(services: House) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    sha256 = services.as_(ONE).images.put_bytes(file.getvalue())
    assert services.as_(ONE).images.data(sha256) == file.getvalue()
    assert services.as_(OWNER).images.put(f"upload://{sha256}") == sha256
    for stranger in (OTHER, NOBODY):
        with pytest.raises(ControlImageInvalid):
            services.as_(stranger).images.put(f"upload://{sha256}")
        with pytest.raises(ControlImageInvalid):
            services.as_(stranger).images.data(sha256)
    assert services.as_(OTHER).images.put_bytes(file.getvalue()) == sha256
    assert services.as_(OTHER).images.data(sha256) == file.getvalue()
