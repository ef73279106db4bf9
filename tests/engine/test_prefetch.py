"""Files are read ahead of their loader, counted in bytes, and whatever happens to them is the loader's to say."""

from __future__ import annotations

from pathlib import Path

import pytest

from wan_ui.engine import prefetch
from wan_ui.engine.prefetch import CHUNK, Prefetcher

PATIENCE = 10.0
SIZES = (0, 1, CHUNK, CHUNK + 1, 3 * CHUNK - 1)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{size}.bin" for size in SIZES]
    for path, size in zip(paths, SIZES, strict=True):
        path.write_bytes(bytes(size))
    return paths


@pytest.mark.parametrize("readers", [1, 4])
def test_every_byte_is_counted_once(files: list[Path], readers: int) -> None:
    ahead = Prefetcher(files, readers)
    assert (ahead.total, ahead.done, ahead.rate) == (sum(SIZES), 0, None)
    ahead.start()
    assert ahead.wait(PATIENCE)
    assert ahead.done == ahead.total
    rate = ahead.rate
    assert rate is not None and rate > 0
    assert ahead.rate == rate  # the last byte ended the clock


def test_a_large_file_is_shared_out(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "SEGMENT", CHUNK)
    ahead = Prefetcher(files[-1:])
    assert len(ahead._segments) == 3
    ahead.start()
    assert ahead.wait(PATIENCE)
    assert ahead.done == files[-1].stat().st_size


def test_a_file_that_goes_or_shrinks_is_left_to_its_loader(files: list[Path]) -> None:
    ahead = Prefetcher(files)
    files[-1].unlink()
    files[-2].write_bytes(b"")
    ahead.start()
    assert ahead.wait(PATIENCE)
    assert ahead.done == sum(SIZES[:-2])


def test_a_stop_ends_it_at_any_time(files: list[Path]) -> None:
    Prefetcher(files).stop()
    ahead = Prefetcher(files)
    ahead.start()
    ahead.stop()
    assert ahead.wait(0)


def test_nothing_to_read_is_done_at_once() -> None:
    ahead = Prefetcher([])
    ahead.start()
    assert ahead.wait(PATIENCE)
    assert (ahead.total, ahead.rate) == (0, None)
