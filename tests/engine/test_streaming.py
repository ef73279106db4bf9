"""Streamed blocks compute with their own weights, even where each copy ends as late as it may."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from wan_ui.engine.streaming import StreamedBlocks

COUNT, WIDTH = 7, 16
POISON = 0xFF  # bytes of NaN, in every float


class LateCopies:
    """Copies are done when something waits for them, and until then their targets are spoilt."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.copied = 0
        self.pinned = 0
        self._waiting: list[tuple[int, torch.Tensor, torch.Tensor]] = []

    def allocate(self, size: int) -> torch.Tensor:
        return torch.full((size,), POISON, dtype=torch.uint8)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> int:
        target.fill_(POISON)
        self.copied += 1
        self._waiting.append((self.copied, target, source))
        return self.copied

    def compute_after(self, event: int) -> None:
        while self._waiting and self._waiting[0][0] <= event:
            _, target, source = self._waiting.pop(0)
            target.copy_(source)

    def compute_after_copies(self) -> None:
        self.compute_after(self.copied)

    def copy_after_compute(self) -> None:
        """Here everything is computed at once."""

    def synchronize(self) -> None:
        self.compute_after_copies()

    def pin(self, buffer: torch.Tensor) -> Callable[[], None] | None:
        self.pinned += buffer.nbytes

        def unlock() -> None:
            self.pinned -= buffer.nbytes

        return unlock


class Blocks(torch.nn.Module):
    """Layers that each change their input; some of them can be passed over."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(COUNT))
        self.after = torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, given: torch.Tensor, skipped: frozenset[int] = frozenset()) -> torch.Tensor:
        for index, block in enumerate(self.blocks):
            given = given if index in skipped else block(given).relu()
        result: torch.Tensor = self.after(given)
        return result


def twins() -> tuple[Blocks, Blocks]:
    torch.manual_seed(0)
    model, other = Blocks().double(), Blocks().double()
    other.load_state_dict(model.state_dict())
    return model, other


GIVEN = torch.linspace(0, 1, WIDTH, dtype=torch.float64).expand(3, WIDTH)
EVERY = frozenset[int]()


@pytest.mark.parametrize("resident", range(COUNT + 1))
def test_a_block_computes_with_its_own_weights(resident: int) -> None:
    model, other = twins()
    streamed = StreamedBlocks(model, LateCopies())
    with torch.no_grad():
        for _ in range(2):
            streamed.onload(resident)
            for skipped in (EVERY, frozenset({0, 4}), frozenset({1, 2, 3, 5}), frozenset({6}), EVERY, EVERY):
                assert torch.equal(model(GIVEN, skipped), other(GIVEN, skipped))
            streamed.offload()
            for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
                assert torch.equal(mine, theirs)
                mine.mul_(1.5)  # as a merge does, between two renders
                theirs.mul_(1.5)


def test_a_streamed_block_is_copied_once_per_forward_and_a_resident_one_once() -> None:
    model, _ = twins()
    for resident, copies in ((0, 2 + COUNT * 3), (COUNT, COUNT), (3, 3 + 2 + 4 * 3)):
        streams = LateCopies()
        streamed = StreamedBlocks(model, streams)
        streamed.onload(resident)
        for _ in range(3):
            model(GIVEN)
        assert streams.copied == copies
        streamed.close()


def test_pages_are_unlocked_at_the_end() -> None:
    model, other = twins()
    streams = LateCopies()
    streamed = StreamedBlocks(model, streams)
    assert streams.pinned >= sum(parameter.nbytes for parameter in model.parameters())
    streamed.onload(2)
    streamed.close()
    assert streams.pinned == 0
    assert torch.equal(model(GIVEN), other(GIVEN))


def test_adapters_are_not_streamed() -> None:
    model, _ = twins()
    model.blocks[0].lora_A = torch.nn.Linear(WIDTH, 2)
    streamed = StreamedBlocks(model, LateCopies())
    before: Any = model.blocks[0].lora_A.weight.data_ptr()
    streamed.onload(0)
    assert model.blocks[0].lora_A.weight.data_ptr() == before
    streamed.close()
