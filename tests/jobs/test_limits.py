"""Limits as rules, and through a job service over a real store."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.fakes import fake_service
from tests.jobs.helpers import body
from wan_ui.access import LOCAL_ACCESS, Access
from wan_ui.errors import CostTooHigh, DiskFull, HostError, QueueFull
from wan_ui.identity import LOCAL_IDENTITY, Identity
from wan_ui.jobs.limits import MEASURE_SECONDS, RESERVED_BYTES, VISITORS_COST, VISITORS_WAITING, DiskQuota, Limits
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.request import parse, resolve

GUEST, OWNER = Identity("1" * 32, False), Identity("2" * 32, True)
GUEST_ACCESS = Access(GUEST, shared=False)


def test_guests_have_limits_of_their_own_and_the_owner_those_that_were_given() -> None:
    limits = Limits()
    limits.check_queue(OWNER, 500, lambda: 500)
    limits.check_queue(GUEST, 500, lambda: VISITORS_WAITING - 1)
    for who, waiting in ((GUEST, 500), (OWNER, 1000), (LOCAL_IDENTITY, 1000)):
        with pytest.raises(QueueFull):
            limits.check_queue(who, waiting, lambda: VISITORS_WAITING)
    with pytest.raises(QueueFull, match="You have 3"):
        Limits(waiting_each=3).check_queue(OWNER, 3, lambda: 3)


def test_the_cost_is_of_all_videos_together() -> None:
    one = resolve(parse({"model": "wan21_1b", "prompts": [{"prompt": "a", "num_frames": 81}]}), store_image=str)
    cost = one[0].width * one[0].height * one[0].num_frames
    Limits(cost=2 * cost).check_cost(OWNER, one * 2)
    with pytest.raises(CostTooHigh) as caught:
        Limits(cost=2 * cost).check_cost(OWNER, one * 3)
    assert caught.value.details == {"asked": 3 * cost, "limit": 2 * cost}
    many = one * (VISITORS_COST // cost + 1)
    Limits().check_cost(OWNER, many)
    with pytest.raises(CostTooHigh):
        Limits().check_cost(GUEST, many)


def test_the_room_is_looked_at_now_and_then(tmp_path: Path) -> None:
    now = [0.0]
    (tmp_path / "clips" / "deep").mkdir(parents=True)
    room = DiskQuota(tmp_path, ["clips", "none"], 1000, lambda: now[0])
    room.check()
    (tmp_path / "clips" / "deep" / "a").write_bytes(bytes(1000))
    room.check()
    now[0] += MEASURE_SECONDS
    with pytest.raises(DiskFull, match="--max-disk-gb"):
        room.check()
    assert DiskQuota(tmp_path, ["clips"], None).problem() is None


def test_a_file_that_would_go_beyond_is_refused_before_it_comes(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a").write_bytes(bytes(600))
    room = DiskQuota(tmp_path, ["clips"], 1000)
    assert room.problem(300) is None
    assert isinstance(room.problem(500), DiskFull)


def test_some_of_the_disk_stays_free(tmp_path: Path) -> None:
    left = [RESERVED_BYTES + 1000]
    room = DiskQuota(tmp_path, ["clips"], None, free=lambda folder: left[0])
    assert room.problem(1000) is None
    said = room.problem(1001)
    assert isinstance(said, DiskFull) and said.message.startswith("The disk has only 34 MB left")
    left[0] = 0
    with pytest.raises(DiskFull, match="0 MB left"):
        room.check()


def test_a_data_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="No such file"):
        DiskQuota(tmp_path / "gone", ["clips"], None).check()


def test_a_retry_waits_in_the_same_line(store: Store, worker: Worker, tmp_path: Path) -> None:
    service = fake_service(store, worker, tmp_path, limits=Limits(waiting_each=2))
    canceled = [service.cancel(service.submit(body(1), GUEST_ACCESS).id, LOCAL_ACCESS) for _ in range(2)]
    waiting = [service.submit(body(1), GUEST_ACCESS) for _ in range(2)]
    for job in canceled:
        with pytest.raises(QueueFull, match="You have 2"):
            service.retry(job.id, GUEST_ACCESS)
        assert service.job(job.id, LOCAL_ACCESS).status == "canceled"
    assert service.retry(waiting[0].id, GUEST_ACCESS).status == "in_queue"
    service.cancel(waiting[0].id, LOCAL_ACCESS)
    assert service.retry(canceled[0].id, GUEST_ACCESS).status == "in_queue"


def test_not_one_more_than_may_wait_however_many_ask_at_once(store: Store, worker: Worker, tmp_path: Path) -> None:
    service = fake_service(store, worker, tmp_path, limits=Limits(waiting=7))
    refused: list[QueueFull] = []

    def ask() -> None:
        try:
            service.submit(body(1), LOCAL_ACCESS)
        except QueueFull as error:
            refused.append(error)

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.waiting() == 7 and len(refused) == 13
