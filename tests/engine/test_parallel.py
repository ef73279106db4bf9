"""One video on several ranks (gloo, on the CPU): the golden frames of all models in both recipes, byte for byte."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel

from tests.engine.heads_program import CHECKPOINT
from tests.golden_cases import CHECKPOINTS, LORAS, cases, differences
from wan_ui import Engine
from wan_ui.engine.split import Split, choose_split, ranks_of
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
@pytest.mark.parametrize("split", [Split(2, 1), Split(1, 2), Split(2, 2)], ids=str)
def test_a_group_renders_the_golden_frames(split: Split, tmp_path: Path) -> None:
    out = tmp_path / "frames.npz"
    arguments = [str(tmp_path / "store"), str(split.guidance), str(split.sequence)]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.engine.parallel_program", *arguments, str(rank), str(out), *CASES],
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(split.ranks)
    ]
    errors = [process.communicate(timeout=280)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0] * split.ranks, errors
    with np.load(out) as rendered:
        assert set(rendered.files) == set(CASES)
        golden = {case.name: case for case in cases()}
        for name in CASES:
            mean, most = differences(rendered[name], golden[name].cpu_frames)
            assert mean <= 0.1 and most <= 2, name
        engine = Engine(CHECKPOINTS, LORAS, "cpu")
        for name in ("wan22_14b_t2v", "wan22_5b_i2v"):
            (alone,) = engine.generate(golden[name].request)
            assert np.array_equal(alone.frames, rendered[name]), name
        engine.close()
    assert set(json.loads(out.with_suffix(".json").read_text()).values()) == {str(split)}


@pytest.mark.slow
def test_compiled_blocks_keep_every_bit_and_no_graph_is_built_again_however_often_a_group_is_joined(
    tmp_path: Path,
) -> None:
    splits = ["1x2"] * 4
    program = [sys.executable, "-m", "tests.engine.joins_program", str(tmp_path), *splits]
    done = subprocess.run(
        program, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    graphs = done.stdout.split()
    assert len(graphs) == len(splits) and len(set(graphs)) == 1


def run_ranks(heads: int, split: Split, folder: Path, *models_dir: str) -> None:
    """Runs the ranks of a split on a tiny transformer with so many heads; fails where a bit differs from one rank's."""
    arguments = [str(heads), str(split.guidance), str(split.sequence), str(folder), *models_dir]
    program = [sys.executable, "-m", "tests.engine.heads_program", *arguments]
    done = subprocess.run(
        program, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, (done.stdout, done.stderr)


@pytest.mark.slow
def test_six_heads_over_four_ranks_keep_every_bit(tmp_path: Path) -> None:
    run_ranks(6, Split(1, 4), tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("split", [Split(1, 4), Split(2, 4), Split(1, 8)], ids=str)
def test_eight_heads_are_divided_without_changing_a_bit(split: Split, tmp_path: Path) -> None:
    run_ranks(8, split, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize(("heads", "split"), [(12, Split(1, 8)), (12, Split(2, 4)), (2, Split(1, 4))], ids=str)
def test_heads_that_do_not_divide_evenly_keep_every_bit(heads: int, split: Split, tmp_path: Path) -> None:
    run_ranks(heads, split, tmp_path)


@pytest.mark.soak
def test_twelve_heads_over_eight_ranks_render_the_frames_of_one(tmp_path: Path) -> None:
    original, copy = CHECKPOINTS / CHECKPOINT, tmp_path / "models" / CHECKPOINT
    shutil.copytree(original, copy, ignore=shutil.ignore_patterns("transformer"))
    config = WanTransformer3DModel.load_config(original / "transformer")
    torch.manual_seed(0)
    WanTransformer3DModel.from_config({**config, "num_attention_heads": 12}).save_pretrained(copy / "transformer")
    run_ranks(12, Split(1, 8), tmp_path, str(tmp_path / "models"))


@pytest.mark.parametrize(("count", "parts"), [(12, 8), (6, 4), (2, 4), (8, 8), (189, 4), (320, 3)])
def test_parts_are_as_torch_divides_them(count: int, parts: int) -> None:
    sizes = part_sizes(count, parts)
    assert sizes == tuple(len(part) for part in torch.arange(count).tensor_split(parts))
