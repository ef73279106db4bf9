"""Every format comes out as the change it was written from, and every name is one that the real model has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from tests.lora import writers
from tests.lora.writers import FORMATS, WIDTHS, Width
from wan_ui.errors import LoraInvalid, LoraMismatch
from wan_ui.lora.convert import Dora, Kron, LowRank, convert, delta
from wan_ui.lora.layers import BLOCK_NAMES, OUTER_NAMES, is_bare_parameter, module_of
from wan_ui.lora.shapes import from_config, has_bias, is_image_layer

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[1] / "golden"


def parameters(config: dict[str, object]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = WanTransformer3DModel.from_config(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def shapes() -> dict[str, dict[str, tuple[int, ...]]]:
    """The parameters of the real class at each width."""
    return {name: parameters(width.config) for name, width in WIDTHS.items()}


def parameter(target: str) -> str:
    """The parameter that a target of Converted.modules changes."""
    return target if target.endswith((".weight", ".bias", "scale_shift_table")) else f"{target}.weight"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_the_change_it_was_written_from(
    name: str, width: str, tmp_path: Path, shapes: dict[str, dict[str, tuple[int, ...]]]
) -> None:
    written = FORMATS[name](WIDTHS[width])
    path = written.save(tmp_path / "some.safetensors")
    converted = convert(path, written.slot)

    assert set(converted.modules) == set(written.expected)
    assert converted.dropped == ()
    for target, expected in written.expected.items():
        part = converted.modules[target]
        if isinstance(part, Dora):
            assert written.magnitudes is not None
            assert torch.equal(part.magnitude, written.magnitudes[target])
            part = LowRank(part.down, part.up, part.scale)
        change = delta(part)
        assert change.dtype == torch.float32
        assert tuple(change.shape) == shapes[width][parameter(target)]
        # A product of r float32 numbers is off by a few units in the last place of its largest term.
        torch.testing.assert_close(change.double(), expected, rtol=0, atol=2e-7 * float(expected.abs().max()))
    if written.other is not None:
        assert set(convert(path, "low" if written.slot == "high" else "high").modules) == set(written.other)


def test_files_without_alpha_are_untouched(tmp_path: Path) -> None:
    written = FORMATS["ai-toolkit"](WIDTHS["48"])
    modules = convert(written.save(tmp_path / "plain.safetensors"), "single").modules
    part = modules["blocks.1.ffn.net.0.proj"]
    assert isinstance(part, LowRank)
    assert part.scale == 1
    assert torch.equal(part.down, written.tensors["diffusion_model.blocks.1.ffn.0.lora_A.weight"])
    assert torch.equal(part.up, written.tensors["diffusion_model.blocks.1.ffn.0.lora_B.weight"])


def test_lokr_of_two_whole_factors_ignores_alpha(tmp_path: Path) -> None:
    written = FORMATS["ai-toolkit lokr, both whole, alpha infinite"](WIDTHS["48"])
    part = convert(written.save(tmp_path / "lokr.safetensors"), "single").modules["blocks.0.attn1.to_q"]
    assert isinstance(part, Kron) and part.scale == 1


@pytest.mark.parametrize("config", sorted(GOLDEN.glob("checkpoints/*/*/transformer/config.json")), ids=str)
def test_the_name_tables_are_one_to_one_and_names_real_parameters(config: Path) -> None:
    sizes = from_config(json.loads(config.read_text()))
    real = {
        name: tuple(tensor.shape)
        for name, tensor in load_file(config.with_name("diffusion_pytorch_model.safetensors")).items()
    }
    names: dict[str, str] = {}
    for block in range(sizes.blocks):
        names |= {f"blocks.{block}.{old}": f"blocks.{block}.{new}" for old, new in BLOCK_NAMES.items()}
    names |= OUTER_NAMES
    if not sizes.image:
        names = {old: new for old, new in names.items() if not is_image_layer(new)}

    assert len(set(names.values())) == len(names)
    assert len({old.replace(".", "_") for old in names}) == len(names)
    reached: set[str] = set()
    for old, new in names.items():
        assert module_of(old) == ("", new)
        assert module_of(new) == ("", new)
        weight = new if is_bare_parameter(new) else f"{new}.weight"
        assert sizes.shape(new) == real[weight]
        assert (f"{new}.bias" in real) == has_bias(new)
        reached |= {weight, *([f"{new}.bias"] if has_bias(new) else [])}
    assert reached == set(real)


def test_no_two_spellings_of_different_layers_agree() -> None:
    """Every spelling in underscores means one layer: block and outer names of all writers."""
    spelled: dict[str, str] = {}
    for table in (BLOCK_NAMES, OUTER_NAMES):
        lead = "blocks.7." if table is BLOCK_NAMES else ""
        for old, new in table.items():
            for name in (old, new):
                for stem in (f"lora_unet_{lead}{name}", f"lora_unet__{lead}{name}", f"lycoris_{lead}{name}"):
                    flat = stem.replace(".", "_")
                    assert module_of(flat) == ("", lead + new)
                    assert spelled.setdefault(flat, new) == new


def test_what_maps_to_nothing_is_listed(tmp_path: Path) -> None:
    written = FORMATS["ai-toolkit"](WIDTHS["48"])
    extra = [torch.zeros(4, 4) for _ in range(4)]
    written.tensors["diffusion_model.vace_blocks.0.after_proj.lora_A.weight"] = extra[0]
    written.tensors["lora_te1_text_model_q_proj.lora_down.weight"] = extra[1]
    written.tensors["diffusion_model.blocks.0.self_attn.q.oft_blocks"] = extra[2]
    written.tensors["logit_scale"] = extra[3]
    dropped = dict(convert(written.save(tmp_path / "a.safetensors"), "single").dropped)
    assert dropped == {
        "diffusion_model.vace_blocks.0.after_proj.lora_A.weight": "no such layer in the Wan models",
        "lora_te1_text_model_q_proj.lora_down.weight": "a text encoder's layer",
        "diffusion_model.blocks.0.self_attn.q.oft_blocks": "OFT, which is not supported",
        "logit_scale": "not a LoRA tensor",
    }


def test_half_a_pair_of_matrices_is_listed(tmp_path: Path) -> None:
    written = FORMATS["musubi"](WIDTHS["48"])
    del written.tensors["lora_unet_blocks_0_self_attn_q.lora_up.weight"]
    del written.tensors["lora_unet_blocks_1_self_attn_q.lora_down.weight"]
    converted = convert(written.save(tmp_path / "a.safetensors"), "single")
    assert "blocks.0.attn1.to_q" not in converted.modules
    assert len(converted.modules) == len(written.expected) - 2
    assert {why for _, why in converted.dropped} == {"its other half is missing"}
    assert len(converted.dropped) == 4


def test_a_file_for_the_other_transformer_is_refused(tmp_path: Path) -> None:
    path = FORMATS["diffusers, second transformer"](WIDTHS["48"]).save(tmp_path / "a.safetensors")
    with pytest.raises(LoraMismatch, match="nothing for high"):
        convert(path, "high")


def test_a_file_of_another_family_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flux.safetensors"
    save_file({"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": torch.zeros(4, 48)}, path)
    with pytest.raises(LoraMismatch, match="do nothing"):
        convert(path, "single")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"blocks.0.self_attn.q.lora_A.weight": torch.zeros(4, 48)}, "twice"),
        ({"diffusion_model.blocks.0.self_attn.q.diff": torch.zeros(48, 48)}, "twice"),
        ({"diffusion_model.blocks.0.self_attn.q.lora_B.weight": torch.zeros(48, 5)}, "do not fit together"),
        ({"diffusion_model.blocks.0.self_attn.q.lora_B.weight": torch.full((48, 4), torch.nan)}, "diverged"),
        ({"diffusion_model.blocks.0.self_attn.q.lora_B.weight": torch.zeros(48, 4, dtype=torch.int32)}, "floating"),
        ({"diffusion_model.blocks.0.self_attn.q.alpha": torch.tensor(torch.inf)}, "infinite"),
        ({"diffusion_model.blocks.0.self_attn.q.alpha": torch.zeros(2)}, "one number"),
        ({"diffusion_model.blocks.0.self_attn.q.dora_scale": torch.ones(1, 48)}, "per output"),
        ({"transformer_2.blocks.0.attn1.to_q.lora_A.weight": torch.zeros(4, 48)}, "mixes"),
    ],
)
def test_broken_files_are_refused(change: dict[str, torch.Tensor], said: str, tmp_path: Path) -> None:
    written = FORMATS["ai-toolkit"](WIDTHS["48"])
    written.tensors |= change
    with pytest.raises(LoraInvalid, match=said):
        convert(written.save(tmp_path / "a.safetensors"), "single")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_short_floats_are_multiplied_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    written = FORMATS["ai-toolkit"](Width(24, 1, 60, 1))
    written.tensors = {key: value.to(dtype) for key, value in written.tensors.items()}
    modules = convert(written.save(tmp_path / "a.safetensors"), "single").modules
    part = modules["blocks.0.attn2.to_v"]
    assert isinstance(part, LowRank)
    stem = "diffusion_model.blocks.0.cross_attn.v.lora"
    expected = written.tensors[f"{stem}_B.weight"].double() @ written.tensors[f"{stem}_A.weight"].double()
    torch.testing.assert_close(delta(part).double(), expected, rtol=0, atol=1e-8)


def test_a_low_rank_change_of_the_patch_embedding_has_its_shape(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    down, up = torch.randn(4, 16, 1, 2, 2), torch.randn(24, 4, 1, 1, 1)
    save_file({"patch_embedding.lora_down.weight": down, "patch_embedding.lora_up.weight": up}, path)
    change = delta(convert(path, "single").modules["patch_embedding"])
    torch.testing.assert_close(change, torch.einsum("or,ricab->oicab", up[:, :, 0, 0, 0], down))


def test_dora_is_never_merged() -> None:
    with pytest.raises(LoraInvalid):
        delta(Dora(torch.zeros(1, 2), torch.zeros(2, 1), torch.ones(2), 1.0))


def test_the_golden_files_convert() -> None:
    for name, slot, count in (("t2v", "single", 30), ("i2v21", "single", 36), ("job_combined", "low", 30)):
        assert len(convert(GOLDEN / "loras" / f"{name}.safetensors", slot).modules) == count


def test_writers_cover_every_original_linear_layer() -> None:
    assert set(writers.ORIGINAL.items()) <= {(new, old) for old, new in BLOCK_NAMES.items()}
