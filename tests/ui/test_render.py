"""The page's HTML fragments."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import replace
from typing import Any

import pytest

from wan_ui.compare import PlannedCell
from wan_ui.engine.result import Progress
from wan_ui.errors import HostError, InvalidRequest, LoraNotFound
from wan_ui.job import ClipRecord, Job, Status
from wan_ui.language import in_language
from wan_ui.request import parse, resolve
from wan_ui.ui import job_lists, player, render

EVIL = '<img src=x onerror="alert(1)">'


def job(status: Status = "in_queue", prompts: int = 1, **changes) -> Job:
    request = {"model": "wan22_5b", "prompts": [{"prompt": EVIL, "width": 1000, "height": 700}] * prompts}
    generations = resolve(parse(request), lambda text: text)
    whole = Job(
        id="0" * 32,
        status=status,
        request=request,
        generations=generations,
        notes=(),
        clips=(),
        error=None,
        attempts=0,
        cancel_requested=False,
        created_at="2026-01-01T00:00:00.000Z",
        started_at="2026-01-01T00:00:01.000Z",
        finished_at="2026-01-01T00:00:13.000Z",
        position=None,
    )
    return replace(whole, **changes)


CLIP = ClipRecord(0, 992, 672, 41, 16, 42, "clips/x.mp4", {})


@pytest.mark.parametrize(
    ("lead", "progress", "said"),
    [
        (None, None, ["Ready"]),
        (job(position=3), None, ["Queued", "position 3"]),
        (job("in_progress"), None, ["Starting"]),
        (
            job("in_progress"),
            Progress("loading", bytes_done=3_000_000_000, bytes_total=28_000_000_000, note="block by block"),
            ["Loading the model", "3.0 GB of 28.0 GB", "block by block", 'value="3e+09"'],
        ),
        (
            job("in_progress"),
            Progress("loading", bytes_done=3_200_000_000, bytes_total=28_600_000_000, bytes_per_second=1.94e9),
            ["3.2 GB of 28.6 GB · 1.9 GB/s"],
        ),
        (
            job("in_progress", prompts=3, clips=(CLIP,)),
            Progress("denoise", 3, 25, 1.24, 27.3),
            ["Denoising", "video 2 of 3", "step 3 of 25", "1.2 s per step", "27 s left", 'max="25" value="3"'],
        ),
        (job("in_progress", cancel_requested=True), Progress("denoise", 3, 25), ["Cancelling"]),
        (job("succeeded", clips=(CLIP,)), None, ["Done", "1 video in 12 s"]),
        (job("canceled"), None, ["Cancelled", "after 12 s"]),
        (
            job("failed", prompts=2, clips=(CLIP,), error={"code": "OUT_OF_MEMORY", "message": EVIL, "details": {}}),
            None,
            ["Failed", "OUT_OF_MEMORY", "1 finished video kept"],
        ),
    ],
)
def test_each_state_says_where_the_job_is(lead, progress, said):
    html = render.now(lead, progress, None)
    for text in said:
        assert text in html
    assert EVIL not in html


def test_while_a_job_waits_the_card_says_what_runs():
    ahead = render.RunningJob(job("in_progress"), Progress("denoise", 3, 25))
    assert "now: Wan 2.2 TI2V 5B, denoising, step 3 of 25" in render.now(job(position=1), None, ahead)


def test_the_cell_that_is_rendered_is_named_in_the_page_s_language():
    assert render.progress_note(Progress("denoise", 1, 4, note="cell 8 of 20")) == "cell 8 of 20"
    with in_language("zh"):
        assert render.progress_note(Progress("denoise", 1, 4, note="cell 8 of 20")) == "第 8/20 个单元格"
    assert render.progress_note(Progress("lora", note="rank 16")) == "rank 16"


def test_a_comparison_s_result_shows_several_of_its_videos():
    """Defect 25: at most eight of them, the first and the last among them."""
    made = [replace(CLIP, index=index) for index in range(40)]
    cells = tuple(PlannedCell(index, 0, f"c{index}", "", index, {}) for index in range(40))
    html = render.result(job("succeeded", prompts=40, clips=tuple(made), cells=cells))
    shown = [int(number) for number in re.findall(r"poster\.jpg\?video=(\d+)", html)]
    assert len(shown) == render.MOST_STILLS and (shown[0], shown[-1]) == (0, 39) and shown == sorted(set(shown))


def test_a_comparison_s_heads_are_short_in_each_language():
    cells = tuple(
        PlannedCell(index, 0, f"scale {scale}", "", index, {"prompts": [{}]}) for index, scale in enumerate((0.5, 1))
    )
    compared = job("in_queue", prompts=2, cells=cells)
    for language, title in (("en", "scale"), ("zh", "强度")):
        with in_language(language):
            grid = player.grid(compared, None)
        assert (grid["column_title"], grid["column_heads"]) == (title, ["0.5", "1"])


def test_a_comparison_s_shared_facts_are_those_of_all_cells():
    def shared(*loras: list[dict[str, Any]]) -> dict[str, str]:
        cells = tuple(
            PlannedCell(x, 0, str(x), "", x, {"prompts": [{}], "loras": items}) for x, items in enumerate(loras)
        )
        compared = job("in_queue", prompts=len(loras), cells=cells)
        steps = [replace(one, sample_steps=6 + index) for index, one in enumerate(compared.generations)]
        return dict(player.grid(replace(compared, generations=tuple(steps)), None)["shared"])

    weak, strong = ({"path": "job/fox.safetensors", "network_multiplier": scale} for scale in (0.5, 1.0))
    assert shared([weak])["Steps"] == "6" and shared([weak])["LoRA"] == "fox × 0.5"
    assert "Steps" not in shared([weak], [weak]) and shared([weak], [weak])["LoRA"] == "fox × 0.5"
    assert shared([], [weak], [strong])["LoRA"] == "fox"  # the first is the baseline
    assert "LoRA" not in shared([weak], [{**weak, "path": "cat.safetensors"}])


def test_an_empty_stage_says_how_to_begin():
    """Defect 22: one thing says that nothing is there, and what comes first."""
    stage, card = render.result(None), render.now(None, None, None)
    assert "Choose a LoRA, describe the video, press Generate" in stage and 'data-do="from-video"' in stage
    assert "Ready" in card and "<p" not in card


def test_the_result_states_what_was_used():
    html = render.result(job("succeeded", clips=(CLIP,)))
    for text in ("1000 × 700 → 992 × 672", "41", "2.6 s", "42", "12 s", f"v1/requests/{'0' * 32}/videos/0"):
        assert text in html
    assert EVIL not in html


def test_tiles_are_said_where_nobody_asked_for_them():
    tiled = replace(CLIP, metadata={"tiled": True})
    assert "no room for whole frames" in render.result(job("succeeded", clips=(tiled,)))
    assert "no room for whole frames" not in render.result(job("succeeded", clips=(CLIP,)))


def test_a_base_that_is_not_the_references_is_named_with_the_way_to_match():
    part = {"component": "transformer", "name": f"T2V/{EVIL}.safetensors", "precision": "fp8_scaled", "size": 1}
    red = replace(CLIP, metadata={"base": {"grade": "red", "components": [{**part, "grade": "red"}]}})
    html = render.result(job("succeeded", clips=(red,)))
    assert "fp8_scaled" in html and "choose the folder or a bf16 file" in html and EVIL not in html
    green = replace(CLIP, metadata={"base": {"grade": "green", "components": [{**part, "grade": "green"}]}})
    assert "T2V/" not in render.result(job("succeeded", clips=(green,)))


def test_the_lists_escape_what_people_wrote():
    for html in (
        job_lists.queue([job(position=1)], [], None),
        job_lists.queue(
            [job("in_progress")], [], render.RunningJob(job("in_progress"), Progress("loading", note=EVIL))
        ),
        job_lists.finished([job("succeeded", clips=(CLIP,))], None),
        render.problem(LoraNotFound(EVIL)),
        render.problem(InvalidRequest("x", fields=[{"loc": EVIL, "msg": EVIL}])),
        render.trouble(HostError(EVIL)),
        render.note(EVIL),
    ):
        assert "<img src=x" not in html and "onerror=&#34;" in html


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("Raise --max-disk-gb.", 'Raise <span class="flag">--max-disk-gb</span>.'),
        ("without --demo, or", 'without <span class="flag">--demo</span>, or'),
        ("a -- dash, well-known, ---x, 3--4", "a -- dash, well-known, ---x, 3--4"),
        (f"{EVIL} --x-y", '&lt;img src=x onerror=&#34;alert(1)&#34;&gt; <span class="flag">--x-y</span>'),
    ],
)
def test_flags_in_a_sentence_are_kept_whole(text, html):
    assert render.sentence(text) == html


def test_many_wrong_fields_are_counted():
    error = InvalidRequest("x", fields=[{"loc": f"prompts.{i}.width", "msg": "no"} for i in range(20)])
    assert "and 12 more" in render.problem(error)


@pytest.mark.parametrize(
    ("value", "said"), [(0.84, "0.8 s"), (9.96, "10 s"), (59.4, "59 s"), (59.7, "1 min 0 s"), (3780, "1 h 3 min")]
)
def test_durations_as_people_say_them(value, said):
    assert render.seconds(value) == said


def test_another_visitors_job_says_neither_its_prompt_nor_lets_itself_be_removed():
    hidden = dataclasses.replace(job(position=1), hidden=True)
    html = job_lists.queue([hidden], [], None)
    assert "someone’s job" in html and "<button" not in html and "onerror" not in html
    assert "<button" in job_lists.queue([job(position=1)], [], None, removable=[job().id])
