"""One video on several ranks (gloo, on the CPU): the golden frames of all models in both recipes, byte for byte."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel

from tests.engine.rank_cases import ALONE, RANKS, SPLITS, render_cases
from tests.engine.rank_heads import CHECKPOINT, compare_predictions, compare_videos
from tests.engine.rank_joins import join_again_and_again
from tests.forked import run_together
from tests.golden_cases import CHECKPOINTS, cases, differences
from wan_ui.engine.split import GroupPlace, Split, choose_split, ranks_of
from wan_ui.engine.token_exchange import part_sizes

CASES = (
    "wan21_1b",
    "wan21_14b_guidance1",
    "wan21_i2v_14b",
    "wan21_i2v_14b480p",
    "wan21_i2v_14b_preview",
    "wan22_14b_i2v",
    "wan22_14b_t2v",
    "wan22_14b_t2v_112_preview",
    "wan22_5b_i2v",
    "wan22_5b_t2v",
    "wan22_5b_t2v_preview",
)
ALONE_TOO = ("wan22_14b_t2v", "wan22_5b_i2v")  # compared with one rank's frames bit for bit


@pytest.mark.parametrize(
    ("gpus", "guided", "split"),
    [
        (1, True, Split(1, 1)),
        (2, True, Split(2, 1)),
        (2, False, Split(1, 2)),
        (3, True, Split(2, 1)),
        (4, True, Split(2, 2)),
        (4, False, Split(1, 4)),
        (8, True, Split(2, 4)),
        (0, True, Split(1, 1)),
    ],
)
def test_guidance_is_split_first(gpus: int, guided: bool, split: Split) -> None:
    assert choose_split(gpus, guided) == split


def test_a_split_names_its_parts() -> None:
    assert [str(Split(*parts)) for parts in ((1, 1), (2, 1), (1, 4), (2, 2))] == [
        "none",
        "guidance 2",
        "sequence 4",
        "guidance 2 × sequence 2",
    ]
    assert [ranks_of(str(Split(*parts))) for parts in ((2, 1), (1, 4), (2, 2))] == [2, 4, 4]
    assert ranks_of(None) == 1


@pytest.mark.slow
def test_groups_of_every_division_render_the_golden_frames(tmp_path: Path) -> None:
    run_together(render_cases, [(rank, tmp_path, CASES, ALONE_TOO) for rank in range(RANKS)], tmp_path)
    golden = {case.name: case for case in cases()}
    for name in CASES:
        for split in SPLITS:
            mean, most = differences(frames(tmp_path, name, str(split)), golden[name].cpu_frames)
            assert mean <= 0.1 and most <= 2, (name, split)
            if name in ALONE_TOO:
                assert np.array_equal(frames(tmp_path, name, str(split)), frames(tmp_path, name, ALONE)), (name, split)


def frames(folder: Path, name: str, division: str) -> np.ndarray:
    """What a group, or one rank alone, wrote of a case."""
    with np.load(folder / f"{name} {division}.npz") as rendered:
        return rendered["frames"]


@pytest.mark.slow
def test_compiled_blocks_keep_every_bit_and_no_graph_is_built_again_however_often_a_group_is_joined(
    tmp_path: Path,
) -> None:
    splits = [Split(1, 2)] * 4
    printed = run_together(join_again_and_again, [(rank, str(tmp_path), splits) for rank in range(2)], tmp_path)
    graphs = printed[0].split()
    assert len(graphs) == len(splits) and len(set(graphs)) == 1


def run_ranks(compare: Callable[..., None], heads: int, split: Split, folder: Path, *more: str) -> None:
    """Runs the ranks of a split with so many heads; fails where a bit differs from one rank's."""
    places = [GroupPlace(split, rank, str(folder / "rendezvous")) for rank in range(split.ranks)]
    run_together(compare, [(heads, place, *more) for place in places], folder, seconds=600)


@pytest.mark.slow
def test_six_heads_over_four_ranks_keep_every_bit(tmp_path: Path) -> None:
    run_ranks(compare_predictions, 6, Split(1, 4), tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("split", [Split(1, 4), Split(2, 4), Split(1, 8)], ids=str)
def test_eight_heads_are_divided_without_changing_a_bit(split: Split, tmp_path: Path) -> None:
    run_ranks(compare_predictions, 8, split, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize(("heads", "split"), [(12, Split(1, 8)), (12, Split(2, 4)), (2, Split(1, 4))], ids=str)
def test_heads_that_do_not_divide_evenly_keep_every_bit(heads: int, split: Split, tmp_path: Path) -> None:
    run_ranks(compare_predictions, heads, split, tmp_path)


@pytest.mark.soak
def test_twelve_heads_over_eight_ranks_render_the_frames_of_one(tmp_path: Path) -> None:
    original, copy = CHECKPOINTS / CHECKPOINT, tmp_path / "models" / CHECKPOINT
    shutil.copytree(original, copy, ignore=shutil.ignore_patterns("transformer"))
    config = WanTransformer3DModel.load_config(original / "transformer")
    torch.manual_seed(0)
    WanTransformer3DModel.from_config({**config, "num_attention_heads": 12}).save_pretrained(copy / "transformer")
    run_ranks(compare_videos, 12, Split(1, 8), tmp_path, str(tmp_path / "models"))


@pytest.mark.parametrize(("count", "parts"), [(12, 8), (6, 4), (2, 4), (8, 8), (189, 4), (320, 3)])
def test_parts_are_as_torch_divides_them(count: int, parts: int) -> None:
    sizes = part_sizes(count, parts)
    assert sizes == tuple(len(part) for part in torch.arange(count).tensor_split(parts))
