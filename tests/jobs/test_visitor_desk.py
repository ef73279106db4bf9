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
from wan_ui.jobs.desk import Desk
from wan_ui.jobs.store import Store
from wan_ui.jobs.visitor_desk import VisitorDesk, hidden_id
from wan_ui.jobs.worker import Worker
from wan_ui.lora.header import no_configs
from wan_ui.lora.library import Library
from wan_ui.media.image import ImageStore
from wan_ui.visitors import Who

ONE, OTHER, NOBODY, OWNER = Who("1" * 32, False), Who("2" * 32, False), Who(None, False), Who("3" * 32, True)
BODY: dict[str, Any] = {"model": "wan21_1b", "prompts": [{"prompt": "a secret garden", "num_frames": 5}]}


def no_fetch(url: str) -> bytes:
    raise AssertionError(url)


class House:
    def __init__(self, folder: Path, store: Store, worker: Worker) -> None:
        (folder / "uploads").mkdir()
        (folder / "loras").mkdir()
        self.folder = folder
        self.desk = Desk(
            Library(folder / "loras", folder / "uploads"),
            ImageStore(folder / "images", no_fetch),
            store,
            worker,
            no_configs,
            folder,
        )

    def as_(self, who: Who, shared: bool = False) -> VisitorDesk:
        return VisitorDesk(self.desk, lambda: who, shared)

    def upload(self, who: Who, name: str, seed: int = 1) -> str:
        made = self.folder / f"made-{seed}.safetensors"
        if not made.is_file():  # written again, its bytes would differ
            write_lora(made, width=1536, ffn=8960, blocks=1, rank=1, seed=seed)
        shutil.copy(made, self.folder / "sent")
        return self.as_(who).library.add_upload(self.folder / "sent", name)


@pytest.fixture
def house(tmp_path: Path, store: Store, worker: Worker) -> House:
    return House(tmp_path, store, worker)


def wearing(source: str) -> dict[str, Any]:
    return BODY | {"loras": [{"path": source}]}


def test_a_browsers_job_is_its_own(house: House) -> None:
    job = house.as_(ONE).submit(BODY)
    assert house.as_(ONE).job(job.id).id == job.id and house.as_(OWNER).job(job.id).id == job.id
    assert house.as_(ONE).is_mine(job) and not house.as_(OTHER).is_mine(job) and not house.as_(OWNER).is_mine(job)
    for stranger in (OTHER, NOBODY):
        for ask in (house.as_(stranger).job, house.as_(stranger).cancel, house.as_(stranger).retry):
            with pytest.raises(RequestNotFound):
                ask(job.id)
        with pytest.raises(RequestNotFound):
            house.as_(stranger).clip_path(job.id, 0)
        assert house.as_(stranger).recent(10) == ()
    assert [seen.id for seen in house.as_(ONE).recent(10)] == [job.id]
    assert house.as_(ONE).cancel(job.id).status == "canceled"


def test_the_owner_sees_and_ends_everything(house: House) -> None:
    job = house.as_(ONE).submit(BODY)
    assert house.as_(OWNER).line()[0].generations[0].prompt == "a secret garden"
    assert [seen.id for seen in house.as_(OWNER).recent(10)] == [job.id]
    assert house.as_(OWNER).cancel(job.id).status == "canceled"


def test_over_http_the_id_is_what_lets_one_read(house: House) -> None:
    job = house.as_(NOBODY).submit(BODY)
    for who in (NOBODY, ONE, OTHER):
        assert house.as_(who).job(job.id).id == job.id
        assert job.id not in str(house.as_(who).line()) and house.as_(who).recent(10) == ()
    assert house.as_(OTHER, shared=True).recent(10) == ()
    assert house.as_(NOBODY).cancel(job.id).status == "canceled"


def test_the_queue_says_of_anothers_job_nothing_but_model_and_place(house: House) -> None:
    job = house.as_(ONE).submit(wearing(house.upload(ONE, "private.safetensors")))
    (seen,) = house.as_(OTHER).line()
    assert seen.hidden and seen.id == hidden_id(job.id) and seen.position == 1
    text = str(dataclasses.asdict(seen))
    for secret in (job.id, "secret garden", "private", ONE.visitor or "-", job.generations[0].loras[0].path):
        assert secret not in text
    assert not house.as_(OTHER).may_change(seen)
    assert not house.as_(ONE).line()[0].hidden


def test_of_anothers_running_job_the_progress_has_no_names(house: House, worker: Worker, render: FakeRender) -> None:
    gate = render.gate(42, 2)
    job = house.as_(ONE).submit(BODY)
    worker.start()
    gate.await_arrival()
    (seen,) = house.as_(OTHER).line()
    progress = house.as_(OTHER).progress(seen.id)
    assert progress is not None and (progress.phase, progress.step, progress.note) == ("denoise", 1, "")
    assert house.as_(OTHER).running(job.id) is None
    assert house.as_(ONE).running(job.id) is not None
    gate.open()


def test_a_shared_gallery_is_for_reading(house: House) -> None:
    job = house.as_(ONE).submit(BODY)
    guest = house.as_(OTHER, shared=True)
    assert guest.job(job.id).id == job.id and [seen.id for seen in guest.recent(10)] == [job.id]
    assert guest.line()[0].generations[0].prompt == "a secret garden"
    for change in (guest.cancel, guest.retry):
        with pytest.raises(RequestNotFound):
            change(job.id)
    assert not guest.may_change(guest.line()[0])


def test_an_upload_is_its_browsers(house: House) -> None:
    source = house.upload(ONE, "style.safetensors")
    assert house.as_(ONE).submit(wearing(source)).status == "in_queue"
    assert house.as_(OWNER).inspect(source)["type"] == "lora"
    for stranger in (OTHER, NOBODY):
        for ask in (
            lambda desk: desk.submit(wearing(source)),
            lambda desk: desk.plan(wearing(source)),
            lambda desk: desk.inspect(source),
            lambda desk: desk.inspect_lora(source),
            lambda desk: desk.library.partner(source),
        ):
            with pytest.raises(LoraNotFound, match="no such upload"):
                ask(house.as_(stranger))


def test_the_same_file_from_two_browsers_is_kept_once_and_both_may_use_it(house: House) -> None:
    first, second = house.upload(ONE, "style.safetensors"), house.upload(OTHER, "style.safetensors")
    assert first == second
    for who in (ONE, OTHER):
        assert house.as_(who).library.locate(first).name == "style.safetensors"


def test_the_other_half_is_looked_for_among_ones_own(house: House) -> None:
    high = house.upload(ONE, "a_high_noise.safetensors", seed=1)
    theirs = house.upload(OTHER, "a_low_noise.safetensors", seed=2)
    assert house.as_(ONE).library.partner(high) is None
    low = house.upload(ONE, "a_low_noise.safetensors", seed=3)
    assert house.as_(ONE).library.partner(high) == low != theirs


def test_a_first_frame_is_its_browsers(house: House) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    sha256 = house.as_(ONE).images.put_bytes(file.getvalue())
    assert house.as_(ONE).images.data(sha256) == file.getvalue()
    assert house.as_(OWNER).images.put(f"upload://{sha256}") == sha256
    for stranger in (OTHER, NOBODY):
        with pytest.raises(ControlImageInvalid):
            house.as_(stranger).images.put(f"upload://{sha256}")
        with pytest.raises(ControlImageInvalid):
            house.as_(stranger).images.data(sha256)
    assert house.as_(OTHER).images.put_bytes(file.getvalue()) == sha256
    assert house.as_(OTHER).images.data(sha256) == file.getvalue()
