"""One video on several ranks (gloo, on the CPU): the golden frames of all models in both recipes, byte for byte."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.golden_cases import CHECKPOINTS, LORAS, cases, differences
from wan_ui import Engine
from wan_ui.engine.split import Split, choose_split

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


@pytest.mark.soak
@pytest.mark.parametrize("split", [Split(1, 4), Split(2, 4), Split(1, 8)], ids=str)
def test_eight_heads_are_divided_without_changing_a_bit(split: Split, tmp_path: Path) -> None:
    arguments = ["8", str(split.guidance), str(split.sequence), str(tmp_path)]
    program = [sys.executable, "-m", "tests.engine.heads_program", *arguments]
    done = subprocess.run(
        program, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
