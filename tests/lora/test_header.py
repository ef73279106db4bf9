"""What a header tells of a file of real size, and which models it is refused for before anything loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.lora.writers import AI_TOOLKIT, FORMATS, IMAGE, ORIGINAL, REAL, WIDTHS, Width, real_tensors, sparse
from wan_ui.errors import LoraMismatch
from wan_ui.lora.fit import candidates, check_fit, coverage, verdicts
from wan_ui.lora.header import LoraHeader, pair_messages, read_header
from wan_ui.lora.pair_names import partner_name, slot_of_name
from wan_ui.lora.report import describe, inspect
from wan_ui.models import MODELS, WanModel

T2V_14B = {"wan22_14b_i2v", "wan22_14b_t2v", "wan21_14b"}
PAIRS = {"wan22_14b_i2v", "wan22_14b_t2v"}
I2V_21 = {"wan21_i2v_14b", "wan21_i2v_14b480p"}
ALL = set(MODELS)

# family -> (models it fits by its layers, those it was made for as far as anyone can tell)
FITS = {
    "wan21_1b": ({"wan21_1b"}, {"wan21_1b"}),
    "wan22_5b": ({"wan22_5b"}, {"wan22_5b"}),
    "14b": (T2V_14B | I2V_21, T2V_14B),
    "wan21_i2v": (I2V_21 | T2V_14B, I2V_21),  # without its image layers the 14B models take the rest
}


@pytest.mark.slow
@pytest.mark.parametrize("slot", ["unknown", "high", "low", "combined"])
@pytest.mark.parametrize("kind", ["lora", "lokr", "dora", "full", "diff"])
@pytest.mark.parametrize("family", REAL)
def test_files_of_real_size_are_known_or_honestly_undecided(family: str, kind: str, slot: str, tmp_path: Path) -> None:
    name = {"high": "job_high_noise", "low": "job_low_noise"}.get(slot, "job") + ".safetensors"
    path = sparse(tmp_path / name, real_tensors(family, kind, slot == "combined"), {"format": "pt"})
    header = read_header(path)
    hidden, ffn, blocks, image = REAL[family]

    assert (header.hidden, header.ffn, header.blocks) == (hidden, ffn, tuple(range(blocks)))
    assert header.type == kind
    assert header.slot == slot
    assert header.image_layers == image
    assert header.dtype == "BF16"
    if kind in ("lora", "dora"):
        assert header.rank is not None and header.alpha is not None
        assert header.rank.min == header.rank.max == header.alpha.median == 32

    fit, made_for = FITS[family]
    if slot == "combined":
        fit = fit & PAIRS
    if slot != "unknown":
        made_for = made_for & PAIRS or (made_for & fit) or fit
    said = describe(header, None, None)
    assert {row_id for row_id, verdict in said["fits"].items() if verdict != "no"} == fit
    assert set(said["candidates"]) == made_for
    sure = {row_id for row_id, verdict in said["fits"].items() if verdict == "yes"}
    assert sure == (made_for if len({MODELS[row].conditioning for row in made_for}) == 1 else set())
    if len(made_for) > 1 and not image:
        assert any("does not say" in message for message in said["messages"])
    assert said["modules"] == (12 if image else 10) * blocks * (2 if slot == "combined" else 1)
    assert said["blocks"] == f"0-{blocks - 1}"
    json.dumps(said, allow_nan=False)


@pytest.mark.parametrize("kind", ["lora", "lokr", "dora", "full", "diff"])
@pytest.mark.parametrize("family", REAL)
def test_a_file_is_refused_where_its_verdict_is_no(family: str, kind: str, tmp_path: Path) -> None:
    header = read_header(sparse(tmp_path / "a.safetensors", real_tensors(family, kind, False), None))
    said = verdicts(header)
    for row in MODELS.values():
        slot = next(iter(row.slots))
        if said[row.id] == "no":
            with pytest.raises(LoraMismatch) as caught:
                check_fit(header, row, slot, None)
            assert set(caught.value.details["fits"]) == FITS[family][1]
            assert "open that tab" in caught.value.message
        else:
            check_fit(header, row, slot, None)


def small(path: Path, width: Width, name: str = "ai-toolkit") -> LoraHeader:
    return read_header(FORMATS[name](width).save(path / "a.safetensors"))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_refused_by_sizes_and_applied_where_some_layers_exist(name: str, tmp_path: Path) -> None:
    """Against checkpoints' own configs: another hidden or feed-forward size; fewer blocks or no image layers."""
    path = FORMATS[name](WIDTHS["72 with image layers"]).save(tmp_path / "a.safetensors")
    header = read_header(path)
    made_for = WIDTHS["72 with image layers"]
    row = MODELS["wan22_14b_i2v"]
    slots = ["high", "low"] if header.slots == ("single",) else header.slots
    for slot in slots:
        assert coverage(header, row, slot, made_for.config).left_out == ()
        for other, message in (
            (Width(48, 2, 144, 2, image=40, in_channels=36), "hidden size of 72"),
            (Width(72, 3, 96, 2, image=40, in_channels=36), "feed-forward"),
        ):
            with pytest.raises(LoraMismatch, match=message):
                check_fit(header, row, slot, other.config)
        for other in (Width(72, 3, 144, 1, image=40, in_channels=36), Width(72, 3, 144, 2, in_channels=36)):
            covered = coverage(header, row, slot, other.config)
            assert 0 < covered.applied < covered.total == len(header.in_slot(slot))
            assert sum(count for _, count in covered.left_out) == covered.total - covered.applied
            assert f"{covered.applied} of its {covered.total} layers are applied" in " ".join(
                check_fit(header, row, slot, other.config)
            )


def test_a_combined_file_fits_no_model_of_one_transformer(tmp_path: Path) -> None:
    header = small(tmp_path, WIDTHS["48"], "ai-toolkit combined, high")
    with pytest.raises(LoraMismatch, match="one transformer"):
        check_fit(header, MODELS["wan21_14b"], "single", WIDTHS["48"].config)


def test_a_file_of_the_second_transformer_alone_fits_low_alone(tmp_path: Path) -> None:
    header = small(tmp_path, WIDTHS["48"], "diffusers, second transformer")
    assert header.slot == "low"
    check_fit(header, MODELS["wan22_14b_t2v"], "low", WIDTHS["48"].config)
    with pytest.raises(LoraMismatch, match="none for high"):
        check_fit(header, MODELS["wan22_14b_t2v"], "high", WIDTHS["48"].config)


def test_another_familys_lora_is_shown_and_refused_everywhere(tmp_path: Path) -> None:
    tensors = {f"transformer.single_transformer_blocks.0.attn.to_q.lora_{ab}.weight": ("BF16", (16, 16)) for ab in "AB"}
    header = read_header(sparse(tmp_path / "flux.safetensors", tensors, None))
    said = describe(header, None, None)
    assert said["family"] is None and said["candidates"] == [] and said["modules"] == 0 and said["type"] == "none"
    assert set(said["fits"].values()) == {"no"}
    assert any("do nothing" in message for message in said["messages"])
    with pytest.raises(LoraMismatch, match="do nothing") as caught:
        check_fit(header, MODELS["wan22_5b"], "single", None)
    assert caught.value.details["fits"] == []


def real(path: Path, family: str, metadata: dict[str, str] | None = None, keep: str = "") -> LoraHeader:
    tensors = {key: value for key, value in real_tensors(family, "lora", False).items() if keep in key}
    return read_header(sparse(path / "a.safetensors", tensors, metadata))


@pytest.mark.parametrize(
    ("version", "made_for"),
    [
        ("wan_2.1", {"wan21_14b"}),
        ("wan_2.2_14b", PAIRS),
        ("wan2.1-t2v-14b", {"wan21_14b"}),
        ("wan2.2-i2v-A14B", {"wan22_14b_i2v"}),
        ("wan2.2-t2v-A14B", {"wan22_14b_t2v"}),
        ("something else", T2V_14B),
        ("wan_2.2_5b", PAIRS),  # a lie: the layers have the width of 14B
    ],
)
def test_the_stated_version_narrows_the_candidates_and_never_the_fit(
    version: str, made_for: set[str], tmp_path: Path
) -> None:
    header = real(tmp_path, "14b", {"ss_base_model_version": version})
    assert {row.id for row in candidates(header)} == made_for
    assert {row_id for row_id, verdict in verdicts(header).items() if verdict == "no"} == ALL - T2V_14B - I2V_21


def test_a_file_without_cross_attention_may_be_for_image_to_video(tmp_path: Path) -> None:
    assert {row.id for row in candidates(real(tmp_path, "14b", keep="self_attn"))} == T2V_14B | I2V_21


def test_the_patch_embedding_tells_image_to_video_from_text_to_video(tmp_path: Path) -> None:
    tensors = {"diffusion_model.patch_embedding.diff": ("BF16", (5120, 36, 1, 2, 2))}
    header = read_header(sparse(tmp_path / "a.safetensors", tensors, None))
    assert {row.id for row in candidates(header)} == {"wan22_14b_i2v"} | I2V_21
    with pytest.raises(LoraMismatch, match="5120 × 36"):
        check_fit(header, MODELS["wan22_14b_t2v"], "high", None)


def notes(header: LoraHeader, row: WanModel, slot: str) -> str:
    return " ".join(check_fit(header, row, slot, None))


def test_soft_cases_are_said(tmp_path: Path) -> None:
    assert "does not say" in notes(real(tmp_path, "14b"), MODELS["wan22_14b_i2v"], "high")
    assert "no image layers" in notes(real(tmp_path, "14b"), MODELS["wan21_i2v_14b"], "single")
    assert "probably made for Wan 2.2" in notes(
        real(tmp_path, "14b", {"ss_base_model_version": "wan_2.2_14b"}), MODELS["wan21_14b"], "single"
    )
    one_block = real(tmp_path, "wan22_5b", keep="blocks.7.")
    assert "1 of the model's 30 blocks" in notes(one_block, MODELS["wan22_5b"], "single")
    assert notes(real(tmp_path, "wan22_5b"), MODELS["wan22_5b"], "single") == ""
    path = sparse(tmp_path / "a_high_noise.safetensors", real_tensors("14b", "lora", False), None)
    assert "says high noise; here it is used for low" in notes(read_header(path), MODELS["wan22_14b_t2v"], "low")
    assert "half of a Wan 2.2 A14B pair" in notes(read_header(path), MODELS["wan21_14b"], "single")


def test_metadata_of_ai_toolkit_is_read(tmp_path: Path) -> None:
    header = small(tmp_path, WIDTHS["48"])
    assert (header.trainer, header.trainer_version, header.step, header.epoch) == ("ai-toolkit", "0.12.26", 1500, 12)
    assert header.trigger_word == "ohwx"
    assert header.model_hash == "ab" * 32
    said = describe(header, None, None)
    assert said["trainer"] == "ai-toolkit 0.12.26"
    assert said["alpha"] == said["rank"] == {"min": 4.0, "median": 4.0, "max": 4.0}


def test_metadata_of_musubi_and_alpha_are_read(tmp_path: Path) -> None:
    header = small(tmp_path, WIDTHS["48"], "musubi")
    assert header.trainer == "musubi-tuner"
    assert header.step == 900
    assert header.alpha is not None and header.alpha.median == 2


@pytest.mark.parametrize(
    ("frequency", "trigger"),
    [
        ({"10_a dog": {"ohwx dog": 12, "grass": 3}}, "ohwx dog"),
        ({"a": {"x": "many", "y": True, "z": -1}}, None),
        ({"a": "b"}, None),
        ([], None),
        ({}, None),
    ],
)
def test_trigger_words(frequency: Any, trigger: str | None, tmp_path: Path) -> None:
    assert real(tmp_path, "14b", {"ss_tag_frequency": json.dumps(frequency)}).trigger_word == trigger


@pytest.mark.parametrize(
    "metadata",
    [
        {"software": "[" * 50_000, "training_info": "{" * 50_000, "ss_tag_frequency": '{"a":' * 10_000},
        {"software": '{"name": 1, "version": []}', "training_info": '{"step": 1e400, "epoch": NaN}'},
        {"software": "null", "ss_tag_frequency": '"text"', "lora_adapter_metadata": "7"},
        {"lora_adapter_metadata": '{"transformer.lora_alpha": "4", "transformer.alpha_pattern": [1]}'},
    ],
)
def test_metadata_that_is_not_what_it_should_be_is_ignored(metadata: dict[str, str], tmp_path: Path) -> None:
    header = real(tmp_path, "14b", metadata)
    assert (header.trainer, header.step, header.trigger_word) == (None, None, None)
    assert header.alpha is not None and header.alpha.median == 32


def test_texts_are_one_capped_line(tmp_path: Path) -> None:
    bad = "a\x1b[31m\u202eb\n\0" + "<" * 500
    header = real(tmp_path, "14b", {"trigger_word": bad, "sshs_model_hash": bad, "ss_output_name": bad})
    for text in (header.trigger_word, header.model_hash, header.output_name):
        assert text is not None and len(text) <= 200 and text.isprintable() and text.startswith("a [31m b <")


def test_what_changes_nothing_is_counted_and_shown_clean(tmp_path: Path) -> None:
    tensors = real_tensors("wan21_1b", "lora", False)
    tensors |= {f"other.\x07{n}.lora_A.weight": ("BF16", (1, 1)) for n in range(100)}
    header = read_header(sparse(tmp_path / "a.safetensors", tensors, None))
    assert header.dropped_count == 100 and len(header.dropped) == 50
    assert all(key.isprintable() for key, _ in header.dropped)
    assert any("100 of its tensors change nothing here" in message for message in header.messages)


def test_peft_files_say_that_alpha_is_elsewhere(tmp_path: Path) -> None:
    assert any("adapter_config.json" in message for message in small(tmp_path, WIDTHS["48"], "PEFT").messages)


def test_the_spread_of_ranks(tmp_path: Path) -> None:
    stem = "diffusion_model.blocks.{}.self_attn.q.lora_{}.weight"
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for n, rank in enumerate((4, 8, 64)):
        tensors[stem.format(n, "A")], tensors[stem.format(n, "B")] = ("F16", (rank, 1536)), ("F16", (1536, rank))
    said = describe(read_header(sparse(tmp_path / "a.safetensors", tensors, None)), None, None)
    assert said["rank"] == {"min": 4.0, "median": 8.0, "max": 64.0}
    assert said["blocks"] == "0-2" and said["modules"] == 3 and said["family"] == "wan21_1b"


@pytest.mark.parametrize(
    ("name", "slot", "partner"),
    [
        ("job_high_noise.safetensors", "high", "job_low_noise.safetensors"),
        ("job_000001500_low_noise.safetensors", "low", "job_000001500_high_noise.safetensors"),
        ("Wan22-I2V-HIGH.safetensors", "high", "Wan22-I2V-LOW.safetensors"),
        ("LowNoise.safetensors", "low", "HighNoise.safetensors"),
        ("highlands_low.safetensors", "low", "highlands_high.safetensors"),
        ("high_speed_low_noise.safetensors", "low", "high_speed_high_noise.safetensors"),
        ("highway.safetensors", None, None),
        ("slow_motion.safetensors", None, None),
        ("high_and_low.safetensors", None, None),
        ("job.safetensors", None, None),
    ],
)
def test_names_of_pairs(name: str, slot: str | None, partner: str | None) -> None:
    assert slot_of_name(name) == slot
    assert partner_name(name) == partner


def test_the_partner_beside_a_file_is_found_and_another_saves_half_is_noticed(tmp_path: Path) -> None:
    written = FORMATS["ai-toolkit"](WIDTHS["48"])
    path = written.save(tmp_path / "job_high_noise.safetensors")
    assert inspect(path)["partner"] is None
    written.save(tmp_path / "job_low_noise.safetensors")
    said = inspect(path)
    assert said["partner"] == "job_low_noise.safetensors"
    assert said["slot"] == "high"
    assert any("swapped names cannot be detected" in message for message in said["messages"])
    assert not any("same save" in message for message in said["messages"])
    written.metadata = {**AI_TOOLKIT, "sshs_model_hash": "cd" * 32}
    written.save(tmp_path / "job_low_noise.safetensors")
    assert any("not from the same save" in message for message in inspect(path)["messages"])
    (tmp_path / "job_low_noise.safetensors").write_bytes(b"<html>")
    said = inspect(path)
    assert said["partner"] is None and any("cannot be used" in message for message in said["messages"])


def test_halves_of_other_trainers_have_hashes_of_their_own(tmp_path: Path) -> None:
    one = real(tmp_path, "14b", {"sshs_model_hash": "a", "ss_network_module": "networks.lora_wan"})
    other = real(tmp_path, "14b", {"sshs_model_hash": "b", "ss_network_module": "networks.lora_wan"})
    assert pair_messages(one, other) == ()
    assert pair_messages(real(tmp_path, "14b", {"ss_steps": "100"}), real(tmp_path, "14b", {"ss_steps": "200"})) == (
        "These two files are from different steps: 100 and 200.",
    )


def test_the_verdict_follows_the_checkpoints_own_config(tmp_path: Path) -> None:
    width = WIDTHS["48"]
    header = small(tmp_path, width)
    assert set(verdicts(header).values()) == {"no"}
    said = verdicts(header, lambda row, component: width.config if row.id == "wan22_14b_t2v" else None)
    assert said.pop("wan22_14b_t2v") == "yes"
    assert set(said.values()) == {"no"}


def test_a_file_for_this_model_is_not_sent_to_the_tab_it_is_in_where_the_checkpoint_is_of_another_size(
    tmp_path: Path,
) -> None:
    header = read_header(sparse(tmp_path / "a.safetensors", real_tensors("wan21_1b", "lora", False), None))
    row = MODELS["wan21_1b"]
    with pytest.raises(LoraMismatch, match="the checkpoint here has another") as caught:
        check_fit(header, row, "single", WIDTHS["48"].config)
    assert "open that tab" not in caught.value.message and caught.value.details["fits"] == [row.id]


def test_image_layers_are_those_of_the_writers() -> None:
    assert all(ORIGINAL[name].endswith("_img") for name in IMAGE)
