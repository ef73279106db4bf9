"""The fetch threads: jobs wait for their files without holding up others, and each file is fetched once."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import IMAGE_NOTE, PATIENCE, FakeImages, FakeRender, Gate, fake_write_video
from tests.jobs.helpers import body
from tests.waiting import wait_until
from tests.web_files import FileServer, lora_bytes, serving
from wan_ui.access import LOCAL_ACCESS, Access
from wan_ui.errors import FetchFailed, HostError, LoraNotFound, MoeFormatRequired
from wan_ui.hub_token import NO_TOKEN
from wan_ui.identity import Identity
from wan_ui.job import Job
from wan_ui.jobs.fetcher import Fetcher
from wan_ui.jobs.schema import MIGRATIONS
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.lora.library import Library
from wan_ui.lora.remote import RemoteFiles
from wan_ui.provenance.restoring import Environment

LORA = lora_bytes()
SHA = hashlib.sha256(LORA).hexdigest()
TINY = {"num_attention_heads": 2, "attention_head_dim": 24, "num_layers": 2, "ffn_dim": 96, "in_channels": 16}


@pytest.fixture
def file_server() -> Iterator[FileServer]:
    with serving() as file_server:
        yield file_server


class Services:
    """A job service over a real store, worker and library; only render, video and images are fakes."""

    def __init__(self, folder: Path, render: FakeRender) -> None:
        self.store = Store(folder / "jobs.sqlite")
        self.worker = Worker(self.store, render, folder / "clips", fake_write_video)
        self.library = Library(
            folder / "loras", folder / "uploads", RemoteFiles(folder / "uploads", allow_hosts=["127.0.0.1"], seconds=10)
        )
        images: Any = FakeImages()
        environment = Environment(transformer_config=lambda row, component: TINY)
        self.service = JobService(self.library, images, self.store, self.worker, folder, environment=environment)
        self.fetcher = self.service.fetcher

    def submit(self, *paths: str, seed: int = 1, **fields: Any) -> Job:
        return self.service.submit({**body(seed), "loras": [{"path": path} for path in paths], **fields}, LOCAL_ACCESS)

    def ended(self, job: Job) -> Job:
        assert self.worker.wait(job.id, PATIENCE)
        return self.service.job(job.id, LOCAL_ACCESS)

    def close(self) -> None:
        assert self.fetcher.stop(PATIENCE) and self.worker.stop()
        self.store.close()


@pytest.fixture
def services(tmp_path: Path, render: FakeRender) -> Iterator[Services]:
    services = Services(tmp_path, render)
    services.fetcher.start()
    services.worker.start()
    yield services
    for gate in render.gates.values():
        gate.open()
    services.close()


def gated(file_server: FileServer, name: str = "slow.safetensors", content: bytes = LORA) -> tuple[str, Gate]:
    gate = Gate()
    return file_server.put(name, content, gate=gate, before_gate=len(content) // 2), gate


def test_a_job_waits_for_its_file_and_then_names_it(services: Services, file_server: FileServer) -> None:
    job = services.ended(services.submit(file_server.put("a.safetensors", LORA)))
    assert (job.status, job.error, job.ready) == ("succeeded", None, True)
    assert [use.sha256 for use in job.generations[0].loras] == [SHA]
    assert job.request["loras"][0]["path"].startswith("http://")


def test_others_pass_and_the_position_says_so(services: Services, file_server: FileServer) -> None:
    url, gate = gated(file_server)
    waiting = services.submit(url, seed=1)
    gate.await_arrival()
    held = services.submit(url, seed=2)
    passing = services.submit(seed=3)
    assert services.ended(passing).status == "succeeded"
    assert [services.service.job(one.id, LOCAL_ACCESS).position for one in (waiting, held)] == [1, 2]
    assert [job.id for job in services.service.queue(LOCAL_ACCESS)] == [waiting.id, held.id]
    wait_until(lambda: (services.service.progress(waiting.id) or PASSED).bytes_done >= len(LORA) // 2)
    progress = services.service.progress(held.id)
    assert progress is not None and progress.phase == "downloading"
    assert progress.bytes_total == len(LORA)
    assert progress.note == "downloading LoRA slow.safetensors, 50 %"
    gate.open()
    assert [services.ended(one).status for one in (waiting, held)] == ["succeeded", "succeeded"]
    assert file_server.asked == [("slow.safetensors", 200)]
    assert services.service.progress(waiting.id) is None


def test_positions_put_those_that_could_run_first(store: Store) -> None:
    jobs = [store.add({}, (), ready=ready) for ready in (False, True, False, True)]
    assert [store.job(job.id).position for job in jobs] == [3, 1, 4, 2]
    assert [job.position for job in store.unfinished()] == [1, 2, 3, 4]
    assert store.unready() == (store.job(jobs[0].id), store.job(jobs[2].id))
    store.make_ready(jobs[0].id, (), ("a note",))
    assert (store.job(jobs[0].id).position, store.job(jobs[0].id).notes) == (1, ("a note",))
    assert [store.claim_next() for _ in range(4)] == [jobs[0].id, jobs[1].id, jobs[3].id, None]
    store.refuse(jobs[0].id, {})  # it runs: too late
    assert store.job(jobs[0].id).status == "in_progress"


def test_a_file_of_schema_one_is_brought_up_with_its_jobs_ready(tmp_path: Path) -> None:
    old = Store(tmp_path / "jobs.sqlite", migrations=MIGRATIONS[:1])
    old.rows(
        "INSERT INTO jobs (id, status, request, generations, notes, total, created_at) "
        "VALUES (:id, 'in_queue', '{}', '[]', '[]', 0, '2026-01-01T00:00:00.000Z')",
        {"id": "a" * 32},
    )
    old.close()
    new = Store(tmp_path / "jobs.sqlite")
    assert new.job("a" * 32).ready
    assert new.claim_next() == "a" * 32
    new.close()


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"status": 404}, "FETCH_FAILED"),
        ({"body": b"<html>" + b" " * 100}, "LORA_INVALID"),
        ({"body": LORA[:-1]}, "LORA_INVALID"),
        ({"body": lora_bytes(width="24")}, "LORA_MISMATCH"),
    ],
)
def test_a_file_that_cannot_be_used_ends_its_job_and_no_other(
    services: Services, file_server: FileServer, render: FakeRender, answer: dict[str, Any], code: str
) -> None:
    wrong = services.submit(file_server.put("wrong.safetensors", **answer), seed=1)
    right = services.submit(file_server.put("right.safetensors", LORA), seed=2)
    ended = services.ended(wrong)
    assert (ended.status, ended.started_at) == ("failed", None) and ended.finished_at
    assert ended.error is not None and ended.error["code"] == code
    assert services.ended(right).status == "succeeded"
    assert {seed for seed, _, _ in render.seen} == {2}


def test_an_invalid_url_is_refused_at_submit(services: Services) -> None:
    with pytest.raises(LoraNotFound):
        services.submit("hf://nobody")
    assert services.service.recent(1, LOCAL_ACCESS) == ()


def test_a_cancel_ends_the_fetch_when_nobody_else_wants_it(
    services: Services, file_server: FileServer, tmp_path: Path
) -> None:
    url, gate = gated(file_server)
    one, other = services.submit(url, seed=1), services.submit(url, seed=2)
    gate.await_arrival()
    assert services.service.cancel(one.id, LOCAL_ACCESS).status == "canceled"
    assert services.service.progress(one.id) is None
    assert services.service.progress(other.id) is not None
    assert services.service.cancel(other.id, LOCAL_ACCESS).status == "canceled"
    wait_until(lambda: not list((tmp_path / "uploads").glob(".part-*")))  # while the host is still silent
    gate.open()
    assert services.service.job(other.id, LOCAL_ACCESS).status == "canceled"
    assert not (tmp_path / "uploads" / f"{SHA}.safetensors").exists()


def test_a_cancel_leaves_the_fetch_to_the_others(services: Services, file_server: FileServer) -> None:
    url, gate = gated(file_server)
    one, other = services.submit(url, seed=1), services.submit(url, seed=2)
    gate.await_arrival()
    services.service.cancel(one.id, LOCAL_ACCESS)
    gate.open()
    assert services.ended(other).status == "succeeded"
    assert file_server.asked == [("slow.safetensors", 200)]


def test_after_a_restart_the_fetch_begins_anew(tmp_path: Path, file_server: FileServer, render: FakeRender) -> None:
    url, gate = gated(file_server)
    first = Services(tmp_path, render)
    first.fetcher.start()
    job = first.submit(url)
    gate.await_arrival()
    first.close()
    assert list((tmp_path / "uploads").glob(".part-*")) == []
    file_server.put("slow.safetensors", LORA)
    again = Services(tmp_path, render)
    assert (again.service.job(job.id, LOCAL_ACCESS).status, again.service.job(job.id, LOCAL_ACCESS).ready) == (
        "in_queue",
        False,
    )
    again.fetcher.start()
    again.worker.start()
    assert again.ended(job).status == "succeeded"
    again.close()


def test_a_file_is_fetched_once_more_if_the_store_could_not_be_written(
    tmp_path: Path, file_server: FileServer, render: FakeRender
) -> None:
    services = Services(tmp_path, render)

    class Stubborn(Store):
        """Fails the first write of a job that became ready."""

        refusals = 1

        def make_ready(self, *args: Any) -> None:
            self.refusals -= 1
            if self.refusals >= 0:
                raise HostError("The disk is full.")
            super().make_ready(*args)

    ready = threading.Event()
    store = Stubborn(tmp_path / "jobs.sqlite")
    job = services.submit(file_server.put("a.safetensors", LORA, etag='"1"'))
    fetcher = Fetcher(store, services.library, lambda row, component: TINY, ready.set, retry_seconds=0.01)
    fetcher.start()
    wait_until(lambda: store.job(job.id).ready)
    assert ready.wait(PATIENCE)
    assert file_server.asked == [("a.safetensors", 200), ("a.safetensors", 304)]
    assert fetcher.stop(PATIENCE)
    store.close()
    services.close()


def test_a_copy_that_could_not_be_asked_about_is_noted(services: Services, file_server: FileServer) -> None:
    url = file_server.put("a.safetensors", LORA)
    assert services.ended(services.submit(url)).notes == ()
    file_server.put("a.safetensors", status=500)
    (note,) = services.ended(services.submit(url)).notes
    assert "a.safetensors downloaded on" in note


def test_notes_about_images_stay_after_the_download(services: Services, file_server: FileServer) -> None:
    url = file_server.put("a.safetensors", LORA)
    prompts = [{**body(1)["prompts"][0], "ctrl_img": "turned"}]
    waiting = services.submit(url, prompts=prompts, model="wan22_5b")
    assert waiting.notes == (IMAGE_NOTE,), waiting.notes
    assert services.ended(waiting).notes == (IMAGE_NOTE,)


def test_a_combined_file_by_address_fills_both_slots(services: Services, file_server: FileServer) -> None:
    content = lora_bytes("ai-toolkit combined, high")
    job = services.ended(services.submit(file_server.put("both.safetensors", content), model="wan22_14b_t2v"))
    assert job.status == "succeeded", job.error
    assert [use.slot for use in job.generations[0].loras] == ["high", "low"]
    assert {use.sha256 for use in job.generations[0].loras} == {hashlib.sha256(content).hexdigest()}


def test_a_single_file_without_its_transformer_is_refused_once_it_is_known(
    services: Services, file_server: FileServer
) -> None:
    job = services.ended(services.submit(file_server.put("one.safetensors", LORA), model="wan22_14b_t2v"))
    assert job.error is not None and job.error["code"] == MoeFormatRequired.code


def test_two_addresses_of_one_job_are_both_awaited(services: Services, file_server: FileServer) -> None:
    high, low = (
        file_server.put("j_high_noise.safetensors", LORA),
        gated(file_server, "j_low_noise.safetensors", lora_bytes(pad=1)),
    )
    loras = [{"path": high, "transformer": "high"}, {"path": low[0], "transformer": "low"}]
    job = services.service.submit({**body(1), "model": "wan22_14b_t2v", "loras": loras}, LOCAL_ACCESS)
    low[1].await_arrival()
    assert not services.service.job(job.id, LOCAL_ACCESS).ready
    low[1].open()
    ended = services.ended(job)
    assert ended.status == "succeeded" and all(use.sha256 for use in ended.generations[0].loras)


def test_inspecting_an_address_fetches_it_in_time_or_says_so(services: Services, file_server: FileServer) -> None:
    url = file_server.put("a_high_noise.safetensors", LORA)
    assert services.service.inspect(url, LOCAL_ACCESS)["slot"] == "high"
    with pytest.raises(FetchFailed, match="within 0 s"):
        services.service.inspect(file_server.put("b.safetensors", LORA), LOCAL_ACCESS, seconds=0)


def test_a_fetcher_that_was_not_started_does_nothing(
    tmp_path: Path, file_server: FileServer, render: FakeRender
) -> None:
    services = Services(tmp_path, render)
    job = services.submit(file_server.put("a.safetensors", LORA))
    assert (job.ready, file_server.asked) == (False, [])
    assert services.service.cancel(job.id, LOCAL_ACCESS).status == "canceled"
    services.close()


def test_a_fetch_that_breaks_for_no_known_reason_fails_its_job(
    tmp_path: Path, render: FakeRender, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = Services(tmp_path, render)
    traces: list[object] = []
    monkeypatch.setattr(threading, "excepthook", traces.append)

    class Broken(Library):
        def fetch(self, *args: Any) -> tuple[str, ...]:
            raise ZeroDivisionError

    ended = threading.Event()
    fetcher = Fetcher(services.store, Broken(tmp_path), lambda row, component: TINY, ended.set)
    job = services.submit("https://example.org/a.safetensors")
    fetcher.start()
    assert ended.wait(PATIENCE)
    error = services.service.job(job.id, LOCAL_ACCESS).error
    assert error is not None and error["code"] == "RENDER_FAILED"
    wait_until(lambda: bool(traces))
    assert fetcher.stop(PATIENCE)
    services.close()


@pytest.mark.parametrize(("guests_use_it", "guests_token"), [(False, NO_TOKEN), (True, None)])
def test_guests_are_given_nothing_with_this_machine_s_token(
    tmp_path: Path, render: FakeRender, guests_use_it: bool, guests_token: str | None
) -> None:
    """None stands for this machine's token, NO_TOKEN for none at all; addresses of the web never get one."""
    services = Services(tmp_path, render)
    asked: dict[str, str | None] = {}
    ended = threading.Event()

    class Asked(Library):
        def fetch(self, source: str, on_bytes: Any, token: str | None = None) -> tuple[str, ...]:
            asked[source] = token
            raise FetchFailed("there is no such file")

    def changed() -> None:
        if len(asked) == 2:
            ended.set()

    fetcher = Fetcher(
        services.store,
        Asked(tmp_path),
        lambda row, component: TINY,
        changed,
        guests_use_hub_token=guests_use_it,
    )
    guest = Access(Identity("a" * 32, owner=False), shared=False)
    for access, source in ((guest, "hf://ann/guests/a.safetensors"), (LOCAL_ACCESS, "hf://ann/owners/a.safetensors")):
        services.service.submit({**body(1), "loras": [{"path": source}]}, access)
    fetcher.start()
    assert ended.wait(PATIENCE)
    assert asked == {"hf://ann/guests/a.safetensors": guests_token, "hf://ann/owners/a.safetensors": None}
    assert fetcher.stop(PATIENCE)
    services.close()


class _Passed:
    bytes_done = -1


PASSED: Any = _Passed()
