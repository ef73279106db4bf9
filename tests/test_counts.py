"""How much work each kind of request is: the counting benchmark's table."""

from __future__ import annotations

from dataclasses import astuple, fields

import pytest

from benchmarks.counts import OTHER_I2V, Counts, measure, table
from tests.golden_cases import CHECKPOINTS
from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.models import MODELS

pytestmark = pytest.mark.slow

# forwards, texts, images, loads, attaches, merges, weighs: ours, and a server's that takes one request after the other.
EXPECTED = {
    "one clip": ((12, 2, 0, 3, 1, 0, 1), (12, 2, 0, 3, 1, 0, 1)),
    "the same again": ((12, 0, 0, 0, 0, 0, 1), (12, 2, 0, 0, 1, 0, 1)),
    "another scale": ((12, 0, 0, 0, 0, 0, 1), (12, 2, 0, 0, 1, 0, 1)),
    "another LoRA": ((12, 0, 0, 0, 1, 0, 1), (12, 2, 0, 0, 1, 0, 1)),
    "another scale, merged (recipe preview)": ((12, 0, 0, 0, 0, 1, 0), (12, 2, 0, 0, 0, 1, 0)),
    "four scales compared": ((48, 2, 0, 3, 1, 0, 4), (48, 8, 0, 3, 4, 0, 4)),
    "four low-noise scales compared, 2.2 T2V": ((36, 2, 0, 4, 2, 0, 8), (48, 8, 0, 4, 8, 0, 8)),
    "720P to 480P": ((12, 0, 2, 1, 1, 0, 1), (12, 2, 2, 4, 1, 0, 1)),
}


@pytest.fixture(scope="module")
def measured() -> dict[str, tuple[Counts, Counts]]:
    return measure()


def without_bytes(counts: Counts) -> tuple[int, ...]:
    place = [field.name for field in fields(Counts)].index("bytes")
    values = astuple(counts)
    return (*values[:place], *values[place + 1 :])


def test_no_request_does_more_than_it_must(measured: dict[str, tuple[Counts, Counts]]) -> None:
    assert {name: (without_bytes(ours), without_bytes(plain)) for name, (ours, plain) in measured.items()} == EXPECTED


def test_bytes_are_those_of_the_files_that_are_not_held(measured: dict[str, tuple[Counts, Counts]]) -> None:
    model, checkpoints = MODELS[OTHER_I2V], Checkpoints(CHECKPOINTS)
    weights = {name: checkpoints.component(model, name).size for name in model.components}
    ours, plain = measured["720P to 480P"]
    assert ours.bytes == weights["transformer"]
    assert plain.bytes == sum(weights[name] for name in ("transformer", "vae", "text_encoder", "image_encoder"))
    assert measured["one clip"][0].bytes == measured["one clip"][1].bytes > 0
    assert all(measured[name][0].bytes == 0 for name in ("the same again", "another scale", "another LoRA"))


def test_the_table_has_a_line_for_each(measured: dict[str, tuple[Counts, Counts]]) -> None:
    lines = table(measured).splitlines()
    assert len(lines) == 2 + len(EXPECTED)
    assert lines[0].count("|") == len(fields(Counts)) + 2
    assert "| four low-noise scales compared, 2.2 T2V | 36 / 48 | 2 / 8 |" in lines[8]
