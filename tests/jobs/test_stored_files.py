"""What visitors have sent: listed and deleted by whoever sent it, and found when nothing refers to it."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.attacks.files import zipped
from tests.fakes import FakeRender, fake_write_video
from tests.lora_files import write_lora
from tests.trainer.job_files import config
from wan_ui.access import LOCAL_ACCESS, Access
from wan_ui.cleanup import cleanup
from wan_ui.errors import DiskFull, PayloadTooLarge, StillRunning, UploadNotFound
from wan_ui.identity import Identity
from wan_ui.jobs.clock_watch import DISTRUST_SECONDS, ClockWatch
from wan_ui.jobs.gallery import Retention
from wan_ui.jobs.limits import Limits
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.jobs.stored_files import Kind
from wan_ui.jobs.worker import Worker
from wan_ui.lora.library import Library
from wan_ui.media.image import ImageStore

ANN, BEN = (Access(Identity(visitor, False), shared=False) for visitor in ("a" * 32, "b" * 32))
OPERATOR = LOCAL_ACCESS
REQUEST = {"model": "wan21_1b", "prompts": [{"prompt": "a fox", "num_frames": 5}]}


def no_fetch(url: str) -> bytes:
    raise AssertionError(url)


@pytest.fixture
def service(store: Store, tmp_path: Path) -> JobService:
    library = Library(tmp_path / "loras", tmp_path / "uploads", owners=store)
    images = ImageStore(tmp_path / "images", no_fetch, owners=store)
    worker = Worker(store, FakeRender(), tmp_path / "clips", fake_write_video)
    return JobService(library, images, store, worker, tmp_path, Limits(disk=50_000_000))


def png(level: int = 9) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (level, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def upload(service: JobService, folder: Path, access: Access, name: str = "fox.safetensors") -> str:
    write_lora(folder / "sent.safetensors", width=1536, ffn=8960, blocks=1, rank=1)
    return service.library.add_upload(folder / "sent.safetensors", name, access).removeprefix("upload://")


def sent(service: JobService, access: Access) -> set[tuple[str, str]]:
    return {(file.kind, file.id) for file in service.stored_files.listing(access)}


def test_one_s_files_are_listed_and_deleted_by_oneself_and_by_the_operator(service: JobService, tmp_path: Path) -> None:
    lora, image = upload(service, tmp_path, ANN), service.images.put_bytes(png(), ANN)
    job = service.imported_jobs.import_config(config(), access=ANN).id
    files = {("lora", lora), ("image", image), ("job", job)}
    assert sent(service, ANN) == sent(service, OPERATOR) == files and sent(service, BEN) == set()
    kinds: list[tuple[Kind, str]] = [("lora", lora), ("image", image), ("job", job)]
    for kind, file_id in kinds:
        with pytest.raises(UploadNotFound):
            service.stored_files.delete(kind, file_id, BEN)
        service.stored_files.delete(kind, file_id, ANN if kind != "image" else OPERATOR)
        with pytest.raises(UploadNotFound):
            service.stored_files.delete(kind, file_id, ANN)
    assert sent(service, OPERATOR) == set()
    left = [path.name for folder in ("images", "trainer", "uploads") for path in (tmp_path / folder).iterdir()]
    assert [name for name in left if name not in ("uploads.json", "hashes.json")] == []


def test_an_equal_file_of_another_stays(service: JobService, tmp_path: Path) -> None:
    image = service.images.put_bytes(png(), ANN)
    assert service.images.put_bytes(png(), BEN) == image
    service.stored_files.delete("image", image, ANN)
    assert not service.images.has(image, ANN) and service.images.has(image, BEN)
    service.stored_files.delete("image", image, BEN)
    assert not (tmp_path / "images" / image).exists()


def test_what_a_waiting_request_uses_is_not_deleted(service: JobService) -> None:
    image = service.images.put_bytes(png(), ANN)
    prompt = {"prompt": "a fox", "num_frames": 5, "ctrl_img": f"upload://{image}"}
    job = service.submit({"model": "wan21_i2v_14b", "prompts": [prompt]}, ANN)
    with pytest.raises(StillRunning):
        service.stored_files.delete("image", image, ANN)
    service.cancel(job.id, ANN)
    service.stored_files.delete("image", image, ANN)


def test_a_request_has_a_megabyte_of_text_at_most(service: JobService) -> None:
    long = {"prompt": "x" * 20_000, "num_frames": 5}
    service.submit({**REQUEST, "prompts": [long] * 49}, OPERATOR)
    with pytest.raises(PayloadTooLarge, match="texts of this request"):
        service.submit({**REQUEST, "prompts": [long] * 51}, OPERATOR)
    eight = list(range(1, 9))
    axes = {"columns": {"field": "seed", "values": eight}, "rows": {"field": "guidance_scale", "values": eight}}
    with pytest.raises(PayloadTooLarge, match="texts of this request"):
        service.submit({**REQUEST, "prompts": [long], "compare": axes}, OPERATOR)
    unused = {"prompt": "x", "trigger_word": "y" * 20_000, "num_frames": 5}
    with pytest.raises(PayloadTooLarge, match="texts of this request"):
        service.submit({**REQUEST, "prompts": [unused] * 51}, OPERATOR)


def test_the_database_counts_toward_the_limit_of_the_disk(store: Store, service: JobService) -> None:
    before = store.size()
    store.add({"model": "x", "prompt": "y" * 60_000_000}, ())
    assert store.size() - before >= 60_000_000
    with pytest.raises(DiskFull, match="max-disk-gb"):
        service.submit(REQUEST, OPERATOR)


def test_the_text_of_a_cancelled_request_goes_after_a_day(store: Store, service: JobService) -> None:
    kept, gone = service.submit(REQUEST, ANN).id, service.submit(REQUEST, ANN).id
    for job_id in (kept, gone):
        service.cancel(job_id, ANN)
    store.rows("UPDATE jobs SET finished_at = '2020-01-01T00:00:00.000Z' WHERE id = :id", {"id": gone})
    service.tidy(Retention())
    assert [job.id for job in store.recent(9)] == [kept]


def test_a_database_that_is_removed_or_replaced_is_a_problem(store: Store, tmp_path: Path) -> None:
    assert store.problem() is None
    path = tmp_path / "jobs.sqlite"
    path.rename(tmp_path / "aside")
    assert store.problem() is not None
    path.write_bytes(b"")
    assert store.problem() is not None
    (tmp_path / "aside").replace(path)
    assert store.problem() is None


def aged(path: Path, days: float = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_bytes(b"12345")
    moment = time.time() - days * 24 * 3600
    os.utime(path, (moment, moment))
    return path


def test_cleanup_lists_and_then_removes_what_nothing_refers_to(
    service: JobService, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = tmp_path / "images" / service.images.put_bytes(png(), ANN)
    nobodys = tmp_path / "images" / service.images.put_bytes(png(1), OPERATOR)
    store.rows("DELETE FROM holdings WHERE id = :id", {"id": nobodys.name})
    lost = [aged(tmp_path / "clips" / f"{'c' * 32}{suffix}") for suffix in (".mp4", ".jpg")]
    young = tmp_path / "clips" / f"{'d' * 32}.mp4"
    young.write_bytes(b"12345")
    old = [aged(path) for path in (held, nobodys, tmp_path / "trainer" / "previews" / ("e" * 64))]
    store.close()
    assert cleanup(["--data-dir", str(tmp_path), "--dry-run"], {}) == 0
    listed = capsys.readouterr().out
    assert all(path.exists() for path in (*lost, *old, young)) and "nothing was removed" in listed
    assert cleanup(["--data-dir", str(tmp_path)], {}) == 0
    assert [path.exists() for path in (*lost, *old, young)] == [False, False, True, False, False, True]
    assert listed.splitlines()[:-1] == capsys.readouterr().out.splitlines()[:-1]
    assert Store(tmp_path / "jobs.sqlite").problem() is None


def test_cleanup_is_refused_while_a_server_holds_the_folder(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from wan_ui.jobs.lock import FolderLock

    lock = FolderLock(tmp_path)
    try:
        assert cleanup(["--data-dir", str(tmp_path)], {}) == 1
    finally:
        lock.release()
    assert "is using this data folder" in capsys.readouterr().err
    assert cleanup(["--data-dir", str(tmp_path / "nowhere")], {}) == 1


def test_what_belongs_to_nobody_goes_with_the_days(service: JobService, store: Store, tmp_path: Path) -> None:
    held = tmp_path / "images" / service.images.put_bytes(png(), ANN)
    nobodys = tmp_path / "images" / service.images.put_bytes(png(1), OPERATOR)
    store.rows("DELETE FROM holdings WHERE id = :id", {"id": nobodys.name})
    for path in (held, nobodys):
        aged(path, 40)
    page = aged(tmp_path / "gradio" / "f" / "sent.png").parent
    aged(page)
    lost = aged(tmp_path / "clips" / f"{'c' * 32}.mp4", 40)
    service.tidy(Retention(days=30))
    assert [path.exists() for path in (held, nobodys, page, lost)] == [True, False, False, True]


def test_a_guest_s_zip_is_smaller(service: JobService, tmp_path: Path) -> None:
    archive = tmp_path / "job.zip"
    archive.write_bytes(zipped({"config.yaml": config(), **{f"samples/{n}.png": b"" for n in range(1_100)}}))
    with pytest.raises(PayloadTooLarge, match="more than 1000 files"):
        service.imported_jobs.import_file(archive, "job.zip", ANN)
    service.imported_jobs.import_file(archive, "job.zip", OPERATOR)


def test_a_clock_that_was_set_deletes_nothing_for_its_age_for_a_day() -> None:
    passed, wrong = 0.0, 0.0
    watch = ClockWatch(lambda: 1e9 + passed + wrong, lambda: passed)
    for jump in (10 * 365 * 24 * 3600.0, -10 * 365 * 24 * 3600.0):
        passed += 100
        assert not watch.has_jumped()
        wrong += jump
        assert watch.has_jumped()
        passed += DISTRUST_SECONDS - 1
        assert watch.has_jumped()
        passed += 2
        assert not watch.has_jumped()
