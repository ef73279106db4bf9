"""LoRA files that people really have, by the number of the report: what each one comes to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.lora.writers import WIDTHS, Width, real_tensors, sparse
from wan_ui.errors import LoraInvalid, LoraMismatch
from wan_ui.lora.convert import Full, Hadamard, LowRank, convert, delta
from wan_ui.lora.fit import candidates, check_fit, coverage, verdicts
from wan_ui.lora.header import read_header
from wan_ui.lora.pair_names import slot_of_name
from wan_ui.lora.report import describe
from wan_ui.lora.shapes import from_config
from wan_ui.models import MODELS

Q = "blocks.0.self_attn.q"
HIDDEN = 48
TINY = WIDTHS["48"]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair(rank: int = 4, out: int = HIDDEN, into: int = HIDDEN) -> tuple[torch.Tensor, torch.Tensor]:
    return random(rank, into, seed=1), random(out, rank, seed=2)


# U6: layers that the model does not have


def test_u06_an_image_lora_on_wan_2_2_i2v_applies_what_exists(tmp_path: Path) -> None:
    tensors = real_tensors("wan21_i2v", "lora", False)
    tensors |= {"diffusion_model.img_emb.proj.1.lora_A.weight": ("BF16", (32, 1280))}
    tensors |= {"diffusion_model.img_emb.proj.1.lora_B.weight": ("BF16", (1280, 32))}
    tensors |= {"diffusion_model.blocks.0.cross_attn.norm_k_img.diff": ("BF16", (5120,))}
    header = read_header(sparse(tmp_path / "a.safetensors", tensors, None))
    model = MODELS["wan22_14b_i2v"]
    covered = coverage(header, model, "high", None)
    assert (covered.applied, covered.total) == (400, 482)
    assert [count for _, count in covered.left_out] == [82] and "image layer" in covered.left_out[0][0]
    assert "400 of its 482 layers are applied" in " ".join(check_fit(header, model, "high", None))
    assert verdicts(header)["wan22_14b_i2v"] == "unknown"
    assert {model.id for model in candidates(header)} == {"wan21_i2v_14b", "wan21_i2v_14b480p"}
    inspection = describe(header, None, None)
    assert inspection["coverage"]["wan21_i2v_14b"] == 1 and 0.8 < inspection["coverage"]["wan22_14b_i2v"] < 0.9
    assert inspection["coverage"]["wan21_1b"] == 0


def test_u06_a_text_lora_with_a_patch_embedding_fits_image_to_video_without_it(tmp_path: Path) -> None:
    tensors = real_tensors("14b", "lora", False)
    tensors["diffusion_model.patch_embedding.diff"] = ("BF16", (5120, 16, 1, 2, 2))
    header = read_header(sparse(tmp_path / "a.safetensors", tensors, None))
    covered = coverage(header, MODELS["wan22_14b_i2v"], "high", None)
    assert covered.total - covered.applied == 1 and "5120 × 16" in covered.left_out[0][0]
    assert coverage(header, MODELS["wan22_14b_t2v"], "high", None).left_out == ()


def test_u06_what_is_left_out_is_counted_when_it_is_read(tmp_path: Path) -> None:
    down, up = pair()
    path = tmp_path / "a.safetensors"
    stems = (Q, "blocks.0.cross_attn.k_img", "blocks.7.self_attn.q")
    save_file({f"{stem}.lora_{ab}.weight": value.clone() for stem in stems for ab, value in (("A", down), ("B", up))},
              path)  # fmt: skip
    whole = convert(path, "single")
    assert (len(whole.modules), whole.left_out) == (3, 0)
    fitting = convert(path, "single", from_config(TINY.config))
    assert list(fitting.modules) == ["blocks.0.attn1.to_q"] and fitting.left_out == 2
    assert {name for name, _ in fitting.dropped} == {"blocks.0.attn2.add_k_proj", "blocks.7.attn1.to_q"}


def test_u06_a_file_none_of_whose_layers_exist_here_is_refused(tmp_path: Path) -> None:
    tensors = {key: value for key, value in real_tensors("wan21_i2v", "lora", False).items() if "_img" in key}
    header = read_header(sparse(tmp_path / "a.safetensors", tensors, None))
    with pytest.raises(LoraMismatch, match="none of its layers fits: 80 × an image layer"):
        check_fit(header, MODELS["wan22_14b_i2v"], "high", None)


# U7: differences of the modulation tables


@pytest.mark.parametrize("prefix", ["", "diffusion_model."])
def test_u07_diff_m_changes_the_modulation_tables(prefix: str, tmp_path: Path) -> None:
    block, head = random(1, 6, HIDDEN), random(1, 2, HIDDEN, seed=1)
    path = tmp_path / "a.safetensors"
    save_file({f"{prefix}blocks.0.diff_m": block, f"{prefix}head.diff_m": head}, path)
    converted = convert(path, "single", from_config(TINY.config))
    assert converted.dropped == ()
    assert torch.equal(delta(converted.modules["blocks.0.scale_shift_table"]), block)
    assert torch.equal(delta(converted.modules["scale_shift_table"]), head)


# U8: other spellings of alpha


@pytest.mark.parametrize(
    "name",
    ["alpha", "lora_alpha", "network_alpha", "alpha.weight", "lora_alpha.default", "lora_A.alpha", "lora_down.alpha"],
)
def test_u08_every_spelling_of_alpha_is_read(name: str, tmp_path: Path) -> None:
    down, up = pair()
    path = tmp_path / "a.safetensors"
    save_file({f"{Q}.lora_A.weight": down, f"{Q}.lora_B.weight": up, f"{Q}.{name}": torch.tensor(2.0)}, path)
    part = convert(path, "single").modules["blocks.0.attn1.to_q"]
    assert isinstance(part, LowRank) and part.scale == 0.5
    assert read_header(path).dropped_count == 0


def test_u08_names_without_weight_a_stated_scale_and_a_rank(tmp_path: Path) -> None:
    down, up = pair()
    path = tmp_path / "a.safetensors"
    save_file({f"{Q}.lora_A": down, f"{Q}.lora_B": up, f"{Q}.lora_rank": torch.tensor(4),
               f"{Q}.alpha_scale": torch.tensor(0.25)}, path)  # fmt: skip
    converted = convert(path, "single")
    part = converted.modules["blocks.0.attn1.to_q"]
    assert isinstance(part, LowRank) and part.scale == 0.25 and converted.dropped == ()


# U9: LoHa, and types that are not supported


def test_u09_loha_is_exact(tmp_path: Path) -> None:
    factors = {f"hada_w{n}_{ab}": random(*((HIDDEN, 3) if ab == "a" else (3, HIDDEN)), seed=n * 2 + (ab == "b"))
               for n in (1, 2) for ab in "ab"}  # fmt: skip
    path = tmp_path / "a.safetensors"
    save_file({f"lycoris_blocks_0_self_attn_q.{name}": value for name, value in factors.items()}
              | {"lycoris_blocks_0_self_attn_q.alpha": torch.tensor(1.5)}, path)  # fmt: skip
    header = read_header(path)
    assert header.type == "loha" and header.rank is not None and header.rank.median == 3
    part = convert(path, "single", from_config(TINY.config)).modules["blocks.0.attn1.to_q"]
    assert isinstance(part, Hadamard)
    f = {name: value.double() for name, value in factors.items()}
    expected = 0.5 * (f["hada_w1_a"] @ f["hada_w1_b"]) * (f["hada_w2_a"] @ f["hada_w2_b"])
    torch.testing.assert_close(delta(part).double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("tucker", [False, True])
def test_u09_loha_of_the_patch_embedding(tucker: bool, tmp_path: Path) -> None:
    stem, rank, kernel = "lycoris_patch_embedding", 3, (1, 2, 2)
    tensors: dict[str, torch.Tensor] = {}
    expected = torch.ones(HIDDEN, 16, *kernel, dtype=torch.float64)
    for n in (1, 2):
        if tucker:
            core = random(rank, rank, *kernel, seed=n)
            a, b = random(rank, HIDDEN, seed=10 + n), random(rank, 16, seed=n)
            tensors[f"{stem}.hada_t{n}"] = core
            expected *= sum(
                core[i, j].double()[None, None] * a[i].double()[:, None, None, None, None]
                * b[j].double()[None, :, None, None, None]
                for i in range(rank) for j in range(rank)
            )  # fmt: skip
        else:
            a, b = random(HIDDEN, rank, seed=n), random(rank, 16 * 4, seed=10 + n)
            expected *= (a.double() @ b.double()).reshape(expected.shape)
        tensors |= {f"{stem}.hada_w{n}_a": a, f"{stem}.hada_w{n}_b": b}
    path = tmp_path / "a.safetensors"
    save_file(tensors, path)
    change = delta(convert(path, "single", from_config(TINY.config)).modules["patch_embedding"])
    torch.testing.assert_close(change.double(), expected, rtol=1e-6, atol=1e-5)


def test_u09_loha_whose_factors_disagree_is_refused(tmp_path: Path) -> None:
    tensors = {f"{Q}.hada_w1_a": random(8, 3), f"{Q}.hada_w1_b": random(3, 8), f"{Q}.hada_w2_a": random(8, 3)}
    save_file(tensors | {f"{Q}.hada_w2_b": random(4, 8)}, tmp_path / "a.safetensors")
    with pytest.raises(LoraInvalid, match="do not fit together"):
        read_header(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["lycoris_blocks_0_self_attn_q.oft_blocks"], "OFT"),
        (["base_model.model.blocks.0.attn1.to_q.oft_R.default.weight"], "OFT"),
        (["base_model.model.blocks.0.attn1.to_q.boft_R", "base_model.model.blocks.0.attn1.to_q.boft_s"], "BOFT"),
        ([f"lycoris_blocks_0_self_attn_q.{half}.weight" for half in ("a1", "a2", "b1", "b2")], "GLoRA"),
        (["base_model.model.blocks.0.attn1.to_q.vera_lambda_b", "base_model.vera_A.default"], "VeRA"),
        (["base_model.model.blocks.0.attn1.to_k.ia3_l.weight"], "IA3"),
        (["blocks.0.self_attn.q_loras.down.weight", "blocks.0.self_attn.q_loras.up.weight"], "Stand-In"),
    ],
)
def test_u09_unsupported_types_are_named_for_what_they_are(names: list[str], kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({name: torch.zeros(4, 4) for name in names}, path)
    header = read_header(path)
    assert header.messages == (f"Its layers are of the type {kind}, which is not supported.",)
    with pytest.raises(LoraMismatch, match=f"of the type {kind}, which is not supported") as caught:
        check_fit(header, MODELS["wan22_14b_t2v"], "high", None)
    assert "another family" not in caught.value.message
    with pytest.raises(LoraMismatch, match=kind):
        convert(path, "high")


def test_u09_a_checkpoint_is_called_one(tmp_path: Path) -> None:
    path = sparse(tmp_path / "a.safetensors", {f"{Q}.weight": ("BF16", (48, 48))}, None)
    with pytest.raises(LoraInvalid, match="whole weights"):
        read_header(path)


# U10: differences of norms, alpha in fp8, PEFT's config


def test_u10_norm_differences_of_lycoris_are_applied(tmp_path: Path) -> None:
    weight, bias, rms = random(HIDDEN), random(HIDDEN, seed=1), random(HIDDEN, seed=2)
    path = tmp_path / "a.safetensors"
    save_file({"lycoris_blocks_0_norm3.w_norm": weight, "lycoris_blocks_0_norm3.b_norm": bias,
               "lycoris_blocks_0_attn1_norm_q.w_norm": rms}, path)  # fmt: skip
    converted = convert(path, "single", from_config(TINY.config))
    assert converted.dropped == ()
    assert torch.equal(delta(converted.modules["blocks.0.norm2.weight"]), weight)
    assert torch.equal(delta(converted.modules["blocks.0.norm2.bias"]), bias)
    assert isinstance(converted.modules["blocks.0.attn1.norm_q.weight"], Full)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("alpha", [2.0, 0.0078125, 224.0, 6.0])
def test_u10_alpha_in_fp8_is_read(dtype: torch.dtype, alpha: float, tmp_path: Path) -> None:
    down, up = pair()
    path = tmp_path / "a.safetensors"
    tensors = {f"{Q}.lora_A.weight": down.to(dtype), f"{Q}.lora_B.weight": up.to(dtype)}
    save_file(tensors | {f"{Q}.alpha": torch.tensor(alpha).to(dtype)}, path)
    part = convert(path, "single").modules["blocks.0.attn1.to_q"]
    assert isinstance(part, LowRank) and part.scale == float(torch.tensor(alpha).to(dtype).float()) / 4


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"r": 4, "lora_alpha": 8}, 2.0),
        ({"r": 4, "lora_alpha": 8, "use_rslora": True}, 4.0),
        ({"r": 8, "lora_alpha": 8, "alpha_pattern": {"to_q": 2}, "rank_pattern": {"to_q": 4}}, 0.5),
        ({"r": 8, "lora_alpha": 8, "alpha_pattern": {"self_attn.q": 1}}, 0.25),
        ({"r": 4, "lora_alpha": "8"}, 1.0),
        ([], 1.0),
    ],
)
def test_u10_pefts_config_beside_the_file_states_alpha(config: object, scale: float, tmp_path: Path) -> None:
    down, up = pair()
    path = tmp_path / "adapter_model.safetensors"
    stem = f"base_model.model.{Q}"
    save_file({f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}, path)
    assert any("adapter_config.json" in message for message in read_header(path).messages)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    part = convert(path, "single").modules["blocks.0.attn1.to_q"]
    assert isinstance(part, LowRank) and part.scale == scale


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b" " * (2 << 20)])
def test_u10_a_broken_config_beside_the_file_is_as_none(content: bytes, tmp_path: Path) -> None:
    down, up = pair()
    path = tmp_path / "adapter_model.safetensors"
    save_file({f"base_model.model.{Q}.lora_A.weight": down, f"base_model.model.{Q}.lora_B.weight": up}, path)
    (tmp_path / "adapter_config.json").write_bytes(content)
    assert any("adapter_config.json" in message for message in read_header(path).messages)


def test_u10_a_config_that_is_a_link_is_not_read(tmp_path: Path) -> None:
    down, up = pair()
    (tmp_path / "loras").mkdir()
    path = tmp_path / "loras" / "adapter_model.safetensors"
    save_file({f"base_model.model.{Q}.lora_A.weight": down, f"base_model.model.{Q}.lora_B.weight": up}, path)
    (tmp_path / "elsewhere.json").write_text('{"lora_alpha": 8}')
    (tmp_path / "loras" / "adapter_config.json").symlink_to(tmp_path / "elsewhere.json")
    part = convert(path, "single").modules["blocks.0.attn1.to_q"]
    assert isinstance(part, LowRank) and part.scale == 1


# U11: prefixes, and words in names


@pytest.mark.parametrize(
    "stem",
    [
        f"_orig_mod.{Q}", f"module.{Q}", f"net.{Q}", f"module._orig_mod.{Q}", f"model.{Q}", f"generator.model.{Q}",
        "diffusion_model.blocks.0._checkpoint_wrapped_module.self_attn.q", "blocks.0._orig_mod.self_attn.q",
        "_fsdp_wrapped_module.blocks.0._fsdp_wrapped_module.self_attn.q", "lora_unet__orig_mod_blocks_0_self_attn_q",
        f"base_model.model._orig_mod.{Q}", f"pipe.dit.{Q}", f"pipe.dit2.{Q}",
    ],
)  # fmt: skip
def test_u11_prefixes_seen_in_the_wild(stem: str, tmp_path: Path) -> None:
    down, up = pair()
    path = tmp_path / "a.safetensors"
    save_file({f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}, path)
    header = read_header(path)
    assert [item.module for item in header.modules] == ["blocks.0.attn1.to_q"] and header.dropped == ()
    assert header.slots == (("low",) if "dit2" in stem else ("single",))


def test_u11_diffsynths_two_transformers_are_a_pair(tmp_path: Path) -> None:
    down, up = pair()
    path = tmp_path / "a.safetensors"
    save_file({f"pipe.{dit}.{Q}.lora_{ab}.weight": value.clone() for dit in ("dit", "dit2")
               for ab, value in (("A", down), ("B", up))}, path)  # fmt: skip
    assert read_header(path).slot == "combined"


@pytest.mark.parametrize(
    ("name", "slot"),
    [
        ("low_poly_style.safetensors", None), ("high-res.safetensors", None), ("High Quality Anime.safetensors", None),
        ("low_key_light_high.safetensors", "high"), ("low_poly_high_noise.safetensors", "high"),
        ("wan_low.safetensors", "low"), ("highlow_resident_low.safetensors", "low"),
    ],
)  # fmt: skip
def test_u11_words_that_describe_something_else_name_no_half(name: str, slot: str | None) -> None:
    assert slot_of_name(name) == slot


@pytest.mark.parametrize(
    ("base", "name", "slot"),
    [
        ("wan_2.1", "low_tide.safetensors", "unknown"),
        ("wan_2.2_5b", "high_tide.safetensors", "unknown"),
        ("wan_2.2_14b", "low_tide.safetensors", "low"),
        ("wan_2.1", "a_low_noise.safetensors", "low"),
    ],
)
def test_u11_metadata_wins_over_a_word_in_the_name(base: str, name: str, slot: str, tmp_path: Path) -> None:
    tensors = real_tensors("14b", "lora", False)
    assert read_header(sparse(tmp_path / name, tensors, {"ss_base_model_version": base})).slot == slot


def test_sizes_of_another_model_are_still_refused(tmp_path: Path) -> None:
    header = read_header(sparse(tmp_path / "a.safetensors", real_tensors("wan21_1b", "lora", False), None))
    with pytest.raises(LoraMismatch, match="hidden size of 1536"):
        check_fit(header, MODELS["wan22_14b_t2v"], "high", None)
    with pytest.raises(LoraMismatch):
        check_fit(header, MODELS["wan21_1b"], "single", Width(48, 2, 96, 2).config)
