"""The cheapest order to render a grid's videos in: equal ones once, and costly changes seldom."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import get_args

from wan_ui.compare import Grid, PlannedCell
from wan_ui.models import Speedup
from wan_ui.request import Generation, LoraUse
from wan_ui.scale import Scale
from wan_ui.wire import wire_form

SPEEDUPS: tuple[Speedup, ...] = get_args(Speedup)


@dataclass(frozen=True)
class Order:
    """The videos to render, in order; cell i of a grid shows `distinct[of_cell[i]]`."""

    distinct: tuple[Generation, ...]
    of_cell: tuple[int, ...]


def same_video(generation: Generation) -> Hashable:
    """A key that is equal for equal videos. A LoRA at scale 0 is not attached; equal files of two names are one."""
    return replace(
        generation,
        loras=_attached(generation),
        requested_width=0,
        requested_height=0,
        requested_num_frames=0,
        ignored=(),
    )


def high_noise_part(generation: Generation) -> Hashable:
    """A key of the high-noise steps of a two-transformer model: everything but the LoRAs of the low-noise side.

    Two generations with the same key have the same latents and sampler state at the boundary, bit for bit.
    """
    kept = tuple(use for use in _attached(generation) if use.slot != "low")
    return replace(
        generation,
        loras=kept,
        fps=0,
        requested_width=0,
        requested_height=0,
        requested_num_frames=0,
        ignored=(),
        vae_tiling=False,
        guidance_scale_2=None,
    )


def render_order(generations: Sequence[Generation]) -> Order:
    """The distinct videos of a grid's generations, in the order that changes the costly things least often.

    Base, recipe and speed-up change least often: another base is another load, the others cast the transformers again
    or quantize their weights, which comes last since the exact weights have to be read again after it. Then the files
    of the first transformer, then their scales (a merged LoRA is merged again for each), then what else the high-noise
    steps depend on, and innermost the low-noise
    side: videos that differ only there are neighbours and can share their high-noise steps, which cost more than any
    change of a low-noise file. No LoRA comes first. A model with one transformer has no low-noise side.
    """
    first: dict[Hashable, Generation] = {}
    for generation in generations:
        first.setdefault(same_video(generation), generation)
    rank = _Ranks()
    ranked = sorted(
        (
            (
                (rank("base", video.base), rank("recipe", video.recipe), SPEEDUPS.index(video.speedup)),
                rank("files", _names(video, low=False)),
                rank("scales", _scales(video, low=False)),
                rank("high", high_noise_part(video)),
                rank("low files", _names(video, low=True)),
                rank("low scales", _scales(video, low=True)),
                index,
            ),
            video,
        )
        for index, video in enumerate(first.values())
    )
    ordered: list[Generation] = []
    for _, group in groupby(ranked, key=lambda item: item[0][:4]):
        blocks = [[video for _, video in block] for _, block in groupby(group, key=lambda item: item[0][4])]
        if ordered:
            # Begin with the low-noise file that is already attached.
            attached = _names(ordered[-1], low=True)
            blocks.sort(key=lambda block: _names(block[0], low=True) != attached)
        ordered += [video for block in blocks for video in block]
    index_of = {same_video(video): index for index, video in enumerate(ordered)}
    return Order(tuple(ordered), tuple(index_of[same_video(generation)] for generation in generations))


def plan_cells(grid: Grid, generations: Sequence[Generation]) -> tuple[tuple[Generation, ...], tuple[PlannedCell, ...]]:
    """A grid's generations, one per cell -> the distinct ones in the order to render, and the cells that show them."""
    order = render_order(generations)
    cells = tuple(
        PlannedCell(
            column=cell.column,
            row=cell.row,
            column_label=cell.column_label,
            row_label=cell.row_label,
            generation=index,
            request=wire_form(cell.request),
            page=cell.page,
            page_label=cell.page_label,
        )
        for cell, index in zip(grid.cells, order.of_cell, strict=True)
    )
    return order.distinct, cells


class _Ranks:
    """Numbers values in the order they come, each kind by itself; the empty tuple is 0."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[Hashable, int]] = {}

    def __call__(self, kind: str, value: Hashable) -> int:
        seen = self._seen.setdefault(kind, {(): 0})
        return seen.setdefault(value, len(seen))


def _attached(generation: Generation) -> tuple[LoraUse, ...]:
    """The LoRAs that have an effect, each named by its content where that is known."""
    return tuple(replace(use, path=use.sha256 or use.path) for use in generation.loras if use.scale != 0)


def _side_of(generation: Generation, low: bool) -> list[LoraUse]:
    return [use for use in _attached(generation) if (use.slot == "low") == low]


def _names(generation: Generation, low: bool) -> tuple[tuple[str, str], ...]:
    return tuple((use.slot, use.path) for use in _side_of(generation, low))


def _scales(generation: Generation, low: bool) -> tuple[Scale, ...]:
    return tuple(use.scale for use in _side_of(generation, low))
