"""The job service as each kind of identity may use it, over a real store, library and image store.

`PERMISSIONS` is the table in `wan_ui.access`, tested row by row.
"""

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
from wan_ui.access import LOCAL_ACCESS, Access, UploadedFiles
from wan_ui.errors import ControlImageInvalid, LoraNotFound, RequestNotFound
from wan_ui.identity import Identity
from wan_ui.jobs.service import JobService, hidden_id
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.lora.library import Library
from wan_ui.media.image import ImageStore

ONE, OTHER, NOBODY, OWNER = (
    Access(Identity("1" * 32, False), shared=False),
    Access(Identity("2" * 32, False), shared=False),
    Access(Identity(None, False), shared=False),
    Access(Identity("3" * 32, True), shared=False),
)
BODY: dict[str, Any] = {"model": "wan21_1b", "prompts": [{"prompt": "a secret garden", "num_frames": 5}]}
ONES, PROGRAMS = ONE.identity.visitor, None
PERMISSIONS = [
    # access, visitor of the job, listed, read by id, changed
    (OWNER, ONES, True, True, True),
    (OWNER, PROGRAMS, True, True, True),
    (LOCAL_ACCESS, ONES, True, True, True),
    (LOCAL_ACCESS, PROGRAMS, True, True, True),
    (ONE, ONES, True, True, True),
    (ONE, PROGRAMS, False, True, True),
    (OTHER, ONES, False, False, False),
    (OTHER, PROGRAMS, False, True, True),
    (NOBODY, ONES, False, False, False),
    (NOBODY, PROGRAMS, False, True, True),
    (Access(OTHER.identity, shared=True), ONES, True, True, False),
    (Access(OTHER.identity, shared=True), PROGRAMS, False, True, True),
    (Access(NOBODY.identity, shared=True), ONES, True, True, False),
    (Access(NOBODY.identity, shared=True), PROGRAMS, False, True, True),
]


@pytest.mark.parametrize(("access", "visitor", "listed", "read", "changed"), PERMISSIONS)
def test_the_table_of_permissions(access: Access, visitor: str | None, listed: bool, read: bool, changed: bool) -> None:
    assert access.may_list(visitor) is listed
    assert access.may_read(visitor) is read
    assert access.may_change(visitor) is changed
    assert access.is_from(visitor) is (access is ONE and visitor == ONES)


@pytest.mark.parametrize(
    ("access", "used"), [(OWNER, True), (LOCAL_ACCESS, True), (ONE, True), (OTHER, False), (NOBODY, False)]
)
def test_the_table_of_uploaded_files(store: Store, access: Access, used: bool) -> None:
    files = UploadedFiles(store, "lora")
    files.record_owner("an-upload", ONE)
    assert files.may_use("an-upload", access) is used
    assert UploadedFiles(store, "image").may_use("an-upload", access) is access.identity.owner
    assert UploadedFiles(None, "lora").may_use("an-upload", access) is access.identity.owner


def no_fetch(url: str) -> bytes:
    raise AssertionError(url)


class Services:
    """A job service whose library and image store record owners in the same store."""

    def __init__(self, folder: Path, store: Store, worker: Worker) -> None:
        (folder / "uploads").mkdir()
        (folder / "loras").mkdir()
        self.folder = folder
        self.library = Library(folder / "loras", folder / "uploads", owners=store)
        self.images = ImageStore(folder / "images", no_fetch, owners=store)
        self.service = JobService(self.library, self.images, store, worker, folder)

    def upload(self, access: Access, name: str, seed: int = 1) -> str:
        made = self.folder / f"made-{seed}.safetensors"
        if not made.is_file():  # written again, its bytes would differ
            write_lora(made, width=1536, ffn=8960, blocks=1, rank=1, seed=seed)
        shutil.copy(made, self.folder / "sent")
        return self.library.add_upload(self.folder / "sent", name, access)


@pytest.fixture
def services(tmp_path: Path, store: Store, worker: Worker) -> Services:
    return Services(tmp_path, store, worker)


@pytest.fixture
def jobs(services: Services) -> JobService:
    return services.service


def with_lora(source: str) -> dict[str, Any]:
    return BODY | {"loras": [{"path": source}]}


def test_a_browsers_job_is_its_own(jobs: JobService) -> None:
    job = jobs.submit(BODY, ONE)
    assert jobs.job(job.id, ONE).id == job.id and jobs.job(job.id, OWNER).id == job.id
    assert ONE.is_from(job.visitor) and not OTHER.is_from(job.visitor) and not OWNER.is_from(job.visitor)
    for stranger in (OTHER, NOBODY):
        for ask in (jobs.job, jobs.cancel, jobs.retry):
            with pytest.raises(RequestNotFound):
                ask(job.id, stranger)
        with pytest.raises(RequestNotFound):
            jobs.clip_path(job.id, 0, stranger)
        assert jobs.recent(10, stranger) == ()
    assert [seen.id for seen in jobs.recent(10, ONE)] == [job.id]
    assert jobs.cancel(job.id, ONE).status == "canceled"


def test_the_owner_sees_and_ends_everything(jobs: JobService) -> None:
    job = jobs.submit(BODY, ONE)
    assert jobs.queue(OWNER)[0].generations[0].prompt == "a secret garden"
    assert [seen.id for seen in jobs.recent(10, OWNER)] == [job.id]
    assert jobs.cancel(job.id, OWNER).status == "canceled"


def test_over_http_the_id_is_what_lets_one_read(jobs: JobService) -> None:
    job = jobs.submit(BODY, NOBODY)
    for access in (NOBODY, ONE, OTHER):
        assert jobs.job(job.id, access).id == job.id
        assert job.id not in str(jobs.queue(access)) and jobs.recent(10, access) == ()
    assert jobs.recent(10, Access(OTHER.identity, shared=True)) == ()
    assert jobs.cancel(job.id, NOBODY).status == "canceled"


def test_the_queue_shows_of_anothers_job_only_model_and_position(services: Services, jobs: JobService) -> None:
    job = jobs.submit(with_lora(services.upload(ONE, "private.safetensors")), ONE)
    (seen,) = jobs.queue(OTHER)
    assert seen.hidden and seen.id == hidden_id(job.id) and seen.position == 1
    text = str(dataclasses.asdict(seen))
    for secret in (job.id, "secret garden", "private", ONES or "-", job.generations[0].loras[0].path):
        assert secret not in text
    assert not jobs.may_change(seen, OTHER)
    assert not jobs.queue(ONE)[0].hidden


def test_the_progress_of_anothers_running_job_has_no_names(
    jobs: JobService, worker: Worker, render: FakeRender
) -> None:
    gate = render.gate(42, 2)
    job = jobs.submit(BODY, ONE)
    worker.start()
    gate.await_arrival()
    (seen,) = jobs.queue(OTHER)
    progress = jobs.progress(seen.id)
    assert progress is not None and (progress.phase, progress.step, progress.note) == ("denoise", 1, "")
    assert jobs.running(job.id, OTHER) is None
    assert jobs.running(job.id, ONE) is not None
    gate.open()


def test_a_shared_gallery_is_for_reading(jobs: JobService) -> None:
    job = jobs.submit(BODY, ONE)
    guest = Access(OTHER.identity, shared=True)
    assert jobs.job(job.id, guest).id == job.id and [seen.id for seen in jobs.recent(10, guest)] == [job.id]
    assert jobs.queue(guest)[0].generations[0].prompt == "a secret garden"
    for change in (jobs.cancel, jobs.retry):
        with pytest.raises(RequestNotFound):
            change(job.id, guest)
    assert not jobs.may_change(jobs.queue(guest)[0], guest)


def test_an_upload_is_its_browsers(services: Services, jobs: JobService) -> None:
    source = services.upload(ONE, "style.safetensors")
    assert jobs.submit(with_lora(source), ONE).status == "in_queue"
    assert jobs.inspect(source, OWNER)["type"] == "lora"
    for stranger in (OTHER, NOBODY):
        for ask in (
            lambda access: jobs.submit(with_lora(source), access),
            lambda access: jobs.plan(with_lora(source), access),
            lambda access: jobs.inspect(source, access),
            lambda access: jobs.inspect_lora(source, access),
            lambda access: services.library.partner(source, access),
        ):
            with pytest.raises(LoraNotFound, match="not found"):
                ask(stranger)


def test_the_same_file_from_two_browsers_is_kept_once_and_both_may_use_it(services: Services) -> None:
    first, second = services.upload(ONE, "style.safetensors"), services.upload(OTHER, "style.safetensors")
    assert first == second
    for access in (ONE, OTHER):
        assert services.library.locate(first, access).name == "style.safetensors"


def test_the_other_half_is_looked_for_among_ones_own(services: Services) -> None:
    high = services.upload(ONE, "a_high_noise.safetensors", seed=1)
    theirs = services.upload(OTHER, "a_low_noise.safetensors", seed=2)
    assert services.library.partner(high, ONE) is None
    low = services.upload(ONE, "a_low_noise.safetensors", seed=3)
    assert services.library.partner(high, ONE) == low != theirs


def test_a_first_frame_is_its_browsers(services: Services) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    images = services.images
    sha256 = images.put_bytes(file.getvalue(), ONE)
    assert images.data(sha256, ONE) == file.getvalue()
    assert images.put(f"upload://{sha256}", OWNER) == sha256
    for stranger in (OTHER, NOBODY):
        with pytest.raises(ControlImageInvalid):
            images.put(f"upload://{sha256}", stranger)
        with pytest.raises(ControlImageInvalid):
            images.data(sha256, stranger)
    assert images.put_bytes(file.getvalue(), OTHER) == sha256
    assert images.data(sha256, OTHER) == file.getvalue()


def test_u18_a_request_turns_its_first_frame_or_says_that_it_is_not_turned(services: Services) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (40, 24), (200, 10, 10)).save(file, "JPEG", exif=exif)
    stored = services.images.put_bytes(file.getvalue(), LOCAL_ACCESS)
    body = {**BODY, "model": "wan22_5b", "prompts": [{"prompt": "a fox", "ctrl_img": f"upload://{stored}"}]}
    plain = services.service.plan(body, LOCAL_ACCESS)
    assert plain.generations[0].image == stored
    assert any("apply_exif" in note for note in plain.notes)
    turned = services.service.plan({**body, "apply_exif": True}, LOCAL_ACCESS)
    image = turned.generations[0].image
    assert image is not None and image != stored and not any("apply_exif" in note for note in turned.notes)
    assert services.images.open(image, LOCAL_ACCESS).size == (24, 40)
    assert turned.wire["prompts"][0]["ctrl_img"] == f"upload://{image}"
    assert services.service.plan(turned.wire, LOCAL_ACCESS).generations == turned.generations
