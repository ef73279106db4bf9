"""Prefetch: files are read and counted in bytes, and a file that cannot be read is left to its loader."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes import PATIENCE
from wan_ui.engine.prefetch import CHUNK, Prefetcher, segments

SIZES = (0, 1, CHUNK, CHUNK + 1, 3 * CHUNK - 1)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{size}.bin" for size in SIZES]
    for path, size in zip(paths, SIZES, strict=True):
        path.write_bytes(bytes(size))
    return paths


@pytest.mark.parametrize("readers", [1, 4])
def test_every_byte_is_counted_once(files: list[Path], readers: int) -> None:
    prefetcher = Prefetcher(files, readers)
    assert (prefetcher.total, prefetcher.done, prefetcher.rate) == (sum(SIZES), 0, None)
    prefetcher.start()
    assert prefetcher.wait(PATIENCE)
    assert prefetcher.done == prefetcher.total
    rate = prefetcher.rate
    assert rate is not None and rate > 0
    assert prefetcher.rate == rate  # the last byte ended the clock


def test_a_large_file_is_shared_by_the_readers(files: list[Path]) -> None:
    assert len(segments(files[-1:], CHUNK)) == 3
    prefetcher = Prefetcher(files[-1:], segment=CHUNK)
    prefetcher.start()
    assert prefetcher.wait(PATIENCE)
    assert prefetcher.done == files[-1].stat().st_size


def test_a_file_that_goes_or_shrinks_is_left_to_its_loader(files: list[Path]) -> None:
    prefetcher = Prefetcher(files)
    files[-1].unlink()
    files[-2].write_bytes(b"")
    prefetcher.start()
    assert prefetcher.wait(PATIENCE)
    assert prefetcher.done == sum(SIZES[:-2])


def test_a_stop_ends_it_at_any_time(files: list[Path]) -> None:
    Prefetcher(files).stop()
    prefetcher = Prefetcher(files)
    prefetcher.start()
    prefetcher.stop()
    assert prefetcher.wait(0)


def test_nothing_to_read_is_done_at_once() -> None:
    prefetcher = Prefetcher([])
    prefetcher.start()
    assert prefetcher.wait(PATIENCE)
    assert (prefetcher.total, prefetcher.rate) == (0, None)
