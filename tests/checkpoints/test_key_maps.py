"""Original names against the names of diffusers and transformers."""

from __future__ import annotations

import pytest

from tests.checkpoints.published_files import clip_shapes, transformer_shapes, vae_shapes
from wan_ui.checkpoints.configs import ModelConfigs
from wan_ui.checkpoints.key_maps import (
    TensorSource,
    clip_sources,
    find_prefix,
    map_keys,
    transformer_name,
    umt5_name,
    vae_name,
)
from wan_ui.checkpoints.modules import expected_shapes
from wan_ui.models import MODELS

CONFIGS = ModelConfigs()


@pytest.mark.parametrize(
    ("original", "name"),
    [
        ("time_embedding.0.weight", "condition_embedder.time_embedder.linear_1.weight"),
        ("text_embedding.2.bias", "condition_embedder.text_embedder.linear_2.bias"),
        ("time_projection.1.weight", "condition_embedder.time_proj.weight"),
        ("img_emb.proj.3.weight", "condition_embedder.image_embedder.ff.net.2.weight"),
        ("head.head.bias", "proj_out.bias"),
        ("head.modulation", "scale_shift_table"),
        ("patch_embedding.weight", "patch_embedding.weight"),
        ("blocks.7.self_attn.o.weight", "blocks.7.attn1.to_out.0.weight"),
        ("blocks.39.cross_attn.norm_k_img.weight", "blocks.39.attn2.norm_added_k.weight"),
        ("blocks.0.norm3.bias", "blocks.0.norm2.bias"),
        ("blocks.0.ffn.0.weight", "blocks.0.ffn.net.0.proj.weight"),
        ("blocks.0.modulation", "blocks.0.scale_shift_table"),
        ("blocks.0.norm1.weight", None),
        ("vace_patch_embedding.weight", None),
        ("blocks.0.self_attn.q.scale_weight", None),
    ],
)
def test_transformer_names(original: str, name: str | None) -> None:
    assert transformer_name(original) == name


@pytest.mark.parametrize(
    ("original", "residual", "blocks", "name"),
    [
        ("conv1.weight", False, 2, "quant_conv.weight"),
        ("conv2.bias", True, 2, "post_quant_conv.bias"),
        ("encoder.middle.2.residual.6.bias", False, 2, "encoder.mid_block.resnets.1.conv2.bias"),
        ("decoder.middle.1.to_qkv.weight", False, 2, "decoder.mid_block.attentions.0.to_qkv.weight"),
        ("decoder.head.2.weight", False, 2, "decoder.conv_out.weight"),
        ("encoder.downsamples.10.residual.0.gamma", False, 2, "encoder.down_blocks.10.norm1.gamma"),
        ("encoder.downsamples.5.time_conv.weight", False, 2, "encoder.down_blocks.5.time_conv.weight"),
        ("decoder.upsamples.3.resample.1.weight", False, 2, "decoder.up_blocks.0.upsamplers.0.resample.1.weight"),
        ("decoder.upsamples.3.resample.1.weight", False, 1, "decoder.up_blocks.1.resnets.0.resample.1.weight"),
        ("decoder.upsamples.14.residual.2.bias", False, 2, "decoder.up_blocks.3.resnets.2.conv1.bias"),
        ("decoder.upsamples.4.shortcut.weight", False, 2, "decoder.up_blocks.1.resnets.0.conv_shortcut.weight"),
        ("encoder.downsamples.0.downsamples.2.a.bias", True, 2, "encoder.down_blocks.0.downsampler.a.bias"),
        ("encoder.downsamples.0.downsamples.1.residual.6.bias", True, 2, "encoder.down_blocks.0.resnets.1.conv2.bias"),
        ("decoder.upsamples.0.upsamples.2.residual.2.weight", True, 2, "decoder.up_blocks.0.resnets.2.conv1.weight"),
        ("decoder.upsamples.0.upsamples.3.time_conv.bias", True, 2, "decoder.up_blocks.0.upsampler.time_conv.bias"),
        ("decoder.upsamples.0.upsamples.0.residual.2.weight", False, 2, None),
        ("decoder.upsamples.0.residual.2.weight", True, 2, None),
        ("model_ema.decay", False, 2, None),
    ],
)  # fmt: skip
def test_vae_names(original: str, residual: bool, blocks: int, name: str | None) -> None:
    assert vae_name(original, {"is_residual": residual, "num_res_blocks": blocks}) == name


@pytest.mark.parametrize(
    ("original", "name"),
    [
        ("shared.weight", "shared.weight"),
        ("encoder.block.3.layer.1.DenseReluDense.wi_1.weight", "encoder.block.3.layer.1.DenseReluDense.wi_1.weight"),
        ("token_embedding.weight", "shared.weight"),
        ("norm.weight", "encoder.final_layer_norm.weight"),
        ("blocks.23.ffn.gate.0.weight", "encoder.block.23.layer.1.DenseReluDense.wi_0.weight"),
        ("blocks.0.attn.q.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"),
        ("enc.blk.2.ffn_up.weight", "encoder.block.2.layer.1.DenseReluDense.wi_1.weight"),
        ("enc.output_norm.weight", "encoder.final_layer_norm.weight"),
        ("dec.blk.0.attn_q.weight", None),
        ("blocks.0.cross_attn.q.weight", None),
    ],
)  # fmt: skip
def test_umt5_names(original: str, name: str | None) -> None:
    assert umt5_name(original) == name


def test_clip_names_of_wan_and_of_transformers() -> None:
    assert clip_sources("vision_model.pre_layrnorm.bias") == {
        "pre_layrnorm.bias": TensorSource("vision_model.pre_layrnorm.bias")
    }
    joined = clip_sources("visual.transformer.3.attn.to_qkv.weight")
    assert joined is not None
    assert joined["encoder.layers.3.self_attn.k_proj.weight"] == TensorSource(
        "visual.transformer.3.attn.to_qkv.weight", part=1, of=3
    )
    assert list(clip_sources("visual.transformer.3.mlp.2.bias") or ()) == ["encoder.layers.3.mlp.fc2.bias"]
    assert clip_sources("visual.something") is None


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
def test_prefixes_of_transformers_are_found(prefix: str) -> None:
    names = [prefix + name for name in ("head.modulation", "patch_embedding.weight", "blocks.0.modulation")]
    assert find_prefix(names, "transformer") == prefix
    mapped = map_keys("transformer", names, {})
    assert mapped.sources["scale_shift_table"] == TensorSource(prefix + "head.modulation")
    assert not mapped.unknown


def test_a_name_outside_the_prefix_is_unknown() -> None:
    mapped = map_keys("transformer", ["model.diffusion_model.head.modulation", "blocks.0.modulation"], {})
    assert mapped.unknown == {"blocks.0.modulation"}


def test_tensors_that_are_not_used_are_known() -> None:
    mapped = map_keys("text_encoder", ["shared.weight", "spiece_model"], {})
    assert mapped.unused == {"spiece_model"} and not mapped.unknown
    mapped = map_keys("image_encoder", ["visual_projection.weight", "vision_model.embeddings.position_ids"], {})
    assert len(mapped.unused) == 2 and not mapped.unknown


@pytest.mark.parametrize("model", sorted(MODELS))
def test_every_real_transformer_is_mapped_whole(model: str) -> None:
    """Each published name becomes one of diffusers' names, and all of those are there, with equal shapes."""
    config = CONFIGS.config(MODELS[model], "transformer")
    shapes = transformer_shapes(config)
    mapped = map_keys("transformer", shapes, config)
    expected = expected_shapes("transformer", config)
    assert not mapped.unknown
    assert {name: shapes[source.name] for name, source in mapped.sources.items()} == expected


def test_the_numbers_of_real_tensors() -> None:
    def count(model: str) -> int:
        return len(transformer_shapes(CONFIGS.config(MODELS[model], "transformer")))

    assert [count(f"wan{name}") for name in ("21_1b", "22_5b", "21_14b", "22_14b_i2v", "21_i2v_14b")] == [
        825, 825, 1095, 1095, 1303,
    ]  # fmt: skip
    vaes = [CONFIGS.config(MODELS[name], "vae") for name in ("wan21_1b", "wan22_5b")]
    assert [len(vae_shapes(config)) for config in vaes] == [194, 196]


@pytest.mark.parametrize("model", ["wan21_1b", "wan22_5b"])
def test_real_vaes_are_mapped_whole(model: str) -> None:
    config = CONFIGS.config(MODELS[model], "vae")
    mapped = map_keys("vae", vae_shapes(config), config)
    assert not mapped.unknown
    assert set(mapped.sources) == set(expected_shapes("vae", config))


def test_the_real_clip_is_mapped_whole() -> None:
    config = CONFIGS.config(MODELS["wan21_i2v_14b"], "image_encoder")
    mapped = map_keys("image_encoder", clip_shapes(config), config)
    assert not mapped.unknown
    assert set(mapped.sources) == set(expected_shapes("image_encoder", config))
