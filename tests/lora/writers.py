"""Writers of every LoRA format people bring, from one known change of the weights; they share nothing with wan_ui."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]

# diffusers' name of a block's linear layer -> the original name
ORIGINAL = {
    "attn1.to_q": "self_attn.q",
    "attn1.to_k": "self_attn.k",
    "attn1.to_v": "self_attn.v",
    "attn1.to_out.0": "self_attn.o",
    "attn2.to_q": "cross_attn.q",
    "attn2.to_k": "cross_attn.k",
    "attn2.to_v": "cross_attn.v",
    "attn2.to_out.0": "cross_attn.o",
    "attn2.add_k_proj": "cross_attn.k_img",
    "attn2.add_v_proj": "cross_attn.v_img",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
}
IMAGE = ("attn2.add_k_proj", "attn2.add_v_proj")
OUTER = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "proj_out": "head.head",
}
IMAGE_OUTER = {"condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1"}


@dataclass(frozen=True)
class Width:
    """A tiny transformer's sizes."""

    hidden: int
    heads: int
    ffn: int
    blocks: int
    image: int = 0  # size of the CLIP embedding; 0: no image layers
    in_channels: int = 16

    @property
    def config(self) -> dict[str, Any]:
        return {
            "patch_size": [1, 2, 2], "num_attention_heads": self.heads,
            "attention_head_dim": self.hidden // self.heads, "in_channels": self.in_channels, "out_channels": 16,
            "text_dim": 32, "freq_dim": 64, "ffn_dim": self.ffn, "num_layers": self.blocks,
            "image_dim": self.image or None, "added_kv_proj_dim": self.hidden if self.image else None,
        }  # fmt: skip

    def linear(self) -> dict[str, tuple[int, int]]:
        """[out, in] of the blocks' linear layers, by diffusers name."""
        h = self.hidden
        shape = dict.fromkeys(ORIGINAL, (h, h)) | {"ffn.net.0.proj": (self.ffn, h), "ffn.net.2": (h, self.ffn)}
        names = [name for name in ORIGINAL if self.image or name not in IMAGE]
        return {f"blocks.{n}.{name}": shape[name] for n in range(self.blocks) for name in names}

    def outer(self) -> dict[str, tuple[int, int]]:
        h = self.hidden
        shapes = {
            "condition_embedder.time_embedder.linear_1": (h, 64),
            "condition_embedder.time_proj": (6 * h, h),
            "condition_embedder.text_embedder.linear_1": (h, 32),
            "proj_out": (64, h),
        }
        if self.image:
            shapes["condition_embedder.image_embedder.ff.net.0.proj"] = (self.image, self.image)
        return shapes


WIDTHS = {
    "48": Width(48, 2, 96, 2),
    "72 with image layers": Width(72, 3, 144, 2, image=40, in_channels=36),
    "24": Width(24, 1, 60, 3),
}


@dataclass
class Written:
    """What a writer made, and what must come of it: target -> float64 change of the parameter.

    Targets are diffusers module names for linear weights, else full parameter names. `magnitudes`: DoRA's, by module.
    """

    tensors: Tensors
    expected: dict[str, torch.Tensor]
    metadata: dict[str, str]
    slot: str = "single"
    magnitudes: dict[str, torch.Tensor] | None = None
    # The other slot's changes, of a combined file.
    other: dict[str, torch.Tensor] | None = None

    def save(self, path: Path) -> Path:
        save_file({key: value.contiguous() for key, value in self.tensors.items()}, path, metadata=self.metadata)
        return path


def original(name: str) -> str:
    """blocks.3.attn1.to_q -> blocks.3.self_attn.q"""
    if name.startswith("blocks."):
        _, number, rest = name.split(".", 2)
        return f"blocks.{number}.{ORIGINAL[rest]}"
    return {**OUTER, **IMAGE_OUTER}[name]


def _draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


Pairs = dict[str, tuple[torch.Tensor, torch.Tensor]]


def pairs(shapes: Mapping[str, tuple[int, int]], rank: int, seed: int = 0) -> Pairs:
    """(down, up) of each module; the known change is up @ down."""
    return {
        name: (_draw(seed + 2 * i, rank, shape[1]), _draw(seed + 2 * i + 1, shape[0], rank))
        for i, (name, shape) in enumerate(shapes.items())
    }


def _product(down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return up.double() @ down.double()


Spell = Callable[[str], str]


def plain(
    spell: Spell,
    down: str = ".lora_A.weight",
    up: str = ".lora_B.weight",
    alpha: float | None = None,
    metadata: dict[str, str] | None = None,
    rank: int = 4,
) -> Callable[[Width], Written]:
    """A writer of ordinary low-rank files. With `alpha`, up is stored times rank / alpha."""

    def write(width: Width) -> Written:
        known = pairs(width.linear(), rank)
        tensors: Tensors = {}
        for name, (a, b) in known.items():
            stem = spell(name)
            tensors[stem + down], tensors[stem + up] = a, b if alpha is None else b * (rank / alpha)
            if alpha is not None:
                tensors[stem + ".alpha"] = torch.tensor(alpha)
        return Written(tensors, {n: _product(a, b) for n, (a, b) in known.items()}, metadata or {"format": "pt"})

    return write


def _kohya(name: str) -> str:
    return "lora_unet_" + original(name).replace(".", "_")


def _half_converted(name: str) -> str:
    """AI Toolkit's LoKr names before 2026-01-13: a mixture of both."""
    _, number, rest = name.split(".", 2)
    rest = rest.replace("attn1.", "self_attn.").replace("attn2.", "cross_attn.")
    for leaf in ("q", "k", "v"):
        rest = rest.replace(f"attn.to_{leaf}", f"attn.{leaf}")
    return f"lycoris_blocks_{number}_{rest}".replace(".", "_")


def _ai_toolkit(name: str) -> str:
    return "diffusion_model." + original(name)


AI_TOOLKIT = {
    "format": "pt",
    "name": "job",
    "software": json.dumps({"name": "ai-toolkit", "repo": "https://example.org/ai-toolkit", "version": "0.12.26"}),
    "training_info": json.dumps({"step": 1500, "epoch": 12}),
    "ss_tag_frequency": json.dumps({"1_ohwx": {"ohwx": 1}}),
    "ss_base_model_version": "wan_2.1",
    "sshs_model_hash": "ab" * 32,
}


def _two_transformers(prefix: Mapping[str, str], slot: str) -> Callable[[Width], Written]:
    def write(width: Width) -> Written:
        tensors: Tensors = {}
        made: dict[str, dict[str, torch.Tensor]] = {}
        spell = original if "diffusion" in prefix["high"] else str
        for seed, side in ((0, "high"), (1000, "low")):
            known = pairs(width.linear(), 4, seed)
            for name, (a, b) in known.items():
                tensors[f"{prefix[side]}{spell(name)}.lora_A.weight"] = a
                tensors[f"{prefix[side]}{spell(name)}.lora_B.weight"] = b
            made[side] = {name: _product(a, b) for name, (a, b) in known.items()}
        other = "low" if slot == "high" else "high"
        return Written(tensors, made[slot], {"format": "pt"}, slot, other=made[other])

    return write


def _second_only(width: Width) -> Written:
    written = plain(lambda name: f"transformer_2.{name}")(width)
    written.slot = "low"
    return written


def _lightx2v(width: Width) -> Written:
    """LoRA on layers outside the blocks too, differences of biases, norms, tables and the patch embedding."""
    known = pairs(width.linear() | width.outer(), 4)
    tensors: Tensors = {}
    expected: dict[str, torch.Tensor] = {}
    for i, (name, (a, b)) in enumerate(known.items()):
        stem = "diffusion_model." + original(name)
        tensors[stem + ".lora_down.weight"], tensors[stem + ".lora_up.weight"] = a, b * 2
        tensors[stem + ".alpha"] = torch.tensor(2.0)
        tensors[stem + ".diff_b"] = _draw(5000 + i, b.shape[0])
        expected[name] = _product(a, b)
        expected[name + ".bias"] = tensors[stem + ".diff_b"].double()
    h = width.hidden
    for n in range(width.blocks):
        block = f"diffusion_model.blocks.{n}"
        for key, shape, target in (
            ("norm3.diff", (h,), "norm2.weight"),
            ("norm3.diff_b", (h,), "norm2.bias"),
            ("diff_m", (1, 6, h), "scale_shift_table"),
            ("self_attn.norm_q.diff", (h,), "attn1.norm_q.weight"),
            ("cross_attn.norm_k.diff", (h,), "attn2.norm_k.weight"),
        ):
            tensors[f"{block}.{key}"] = _draw(6000 + len(tensors), *shape)
            expected[f"blocks.{n}.{target}"] = tensors[f"{block}.{key}"].double()
    outside: tuple[tuple[str, tuple[int, ...], str], ...] = (
        ("patch_embedding.diff", (h, width.in_channels, 1, 2, 2), "patch_embedding.weight"),
        ("head.diff_m", (1, 2, h), "scale_shift_table"),
    )
    for key, sizes, target in outside:
        tensors[f"diffusion_model.{key}"] = _draw(7000 + len(tensors), *sizes)
        expected[target] = tensors[f"diffusion_model.{key}"].double()
    return Written(tensors, expected, {"format": "pt"})


def _full_rank(width: Width) -> Written:
    known = {name: _draw(i, *shape) for i, (name, shape) in enumerate(width.linear().items())}
    return Written(
        {f"{_ai_toolkit(name)}.lora_A.weight": change for name, change in known.items()},
        {name: change.double() for name, change in known.items()},
        AI_TOOLKIT,
    )


def _full_layers(width: Width) -> Written:
    tensors: Tensors = {}
    expected: dict[str, torch.Tensor] = {}
    for i, (name, shape) in enumerate(width.linear().items()):
        tensors[f"{_ai_toolkit(name)}.diff"] = _draw(2 * i, *shape)
        tensors[f"{_ai_toolkit(name)}.diff_b"] = _draw(2 * i + 1, shape[0])
        expected[f"{name}.weight"] = tensors[f"{_ai_toolkit(name)}.diff"].double()
        expected[f"{name}.bias"] = tensors[f"{_ai_toolkit(name)}.diff_b"].double()
    return Written(tensors, expected, AI_TOOLKIT)


def lokr(spell: Spell, first: bool, second: bool, alpha: float | None, rank: int = 3) -> Callable[[Width], Written]:
    """A writer of LoKr; `first` and `second`: whether w1 and w2 are stored whole or as two factors."""

    def write(width: Width) -> Written:
        tensors: Tensors = {}
        expected: dict[str, torch.Tensor] = {}
        for i, (name, (out, into)) in enumerate(width.linear().items()):
            sizes = ((4, 6), (out // 4, into // 6))
            factors: list[torch.Tensor] = []
            for number, (whole, (rows, columns)) in enumerate(zip((first, second), sizes, strict=True), 1):
                stem = f"{spell(name)}.lokr_w{number}"
                if whole:
                    tensors[stem] = _draw(10 * i + number, rows, columns)
                    factors.append(tensors[stem].double())
                else:
                    tensors[stem + "_a"] = _draw(10 * i + 2 + number, rows, rank)
                    tensors[stem + "_b"] = _draw(10 * i + 4 + number, rank, columns)
                    factors.append(_product(tensors[stem + "_b"], tensors[stem + "_a"]))
            if alpha is not None:
                tensors[f"{spell(name)}.alpha"] = torch.tensor(alpha)
            scale = 1.0 if (first and second) or alpha is None else alpha / rank
            expected[name] = scale * torch.kron(*factors)
        return Written(tensors, expected, AI_TOOLKIT)

    return write


def dora(spell: Spell, magnitude: str, column: bool = False) -> Callable[[Width], Written]:
    """A writer of DoRA; `column`: the magnitude as [out, 1] instead of [out]."""

    def write(width: Width) -> Written:
        written = plain(spell)(width)
        written.magnitudes = {name: _draw(i, shape[0]).abs() for i, (name, shape) in enumerate(width.linear().items())}
        for name, values in written.magnitudes.items():
            written.tensors[spell(name) + magnitude] = values[:, None] if column else values
        return written

    return write


def loha(spell: Spell, alpha: float | None, rank: int = 3) -> Callable[[Width], Written]:
    """A writer of LoHa: the element-wise product of two low-rank products."""

    def write(width: Width) -> Written:
        tensors: Tensors = {}
        expected: dict[str, torch.Tensor] = {}
        for i, (name, (out, into)) in enumerate(width.linear().items()):
            product = torch.ones(out, into, dtype=torch.float64)
            for number in (1, 2):
                stem = f"{spell(name)}.hada_w{number}"
                tensors[stem + "_a"] = _draw(20 * i + number, out, rank)
                tensors[stem + "_b"] = _draw(20 * i + 4 + number, rank, into)
                product *= _product(tensors[stem + "_b"], tensors[stem + "_a"])
            if alpha is not None:
                tensors[f"{spell(name)}.alpha"] = torch.tensor(alpha)
            expected[name] = product * (1.0 if alpha is None else alpha / rank)
        return Written(tensors, expected, {"format": "pt"})

    return write


def _lycoris_norms(width: Width) -> Written:
    """LyCORIS with trained norms: the differences of their weights and biases beside a LoKr."""
    written = lokr(_lycoris, True, False, 4.0)(width)
    for n in range(width.blocks):
        for key, target in (("norm3.w_norm", "norm2.weight"), ("norm3.b_norm", "norm2.bias")):
            name = f"lycoris_blocks_{n}_{key}"
            written.tensors[name] = _draw(8000 + len(written.tensors), width.hidden)
            written.expected[f"blocks.{n}.{target}"] = written.tensors[name].double()
    return written


def _lycoris(name: str) -> str:
    return "lycoris_" + original(name).replace(".", "_")


def _mixed(width: Width) -> Written:
    """One file with a LoRA, a LoKr and a whole change, each on its own modules."""
    parts = (plain(_ai_toolkit)(width), lokr(_ai_toolkit, True, False, 1.5)(width), _full_layers(width))
    tensors: Tensors = {}
    expected: dict[str, torch.Tensor] = {}
    for i, name in enumerate(width.linear()):
        part = parts[i % 3]
        stem = _ai_toolkit(name)
        tensors |= {key: value for key, value in part.tensors.items() if key.startswith(stem + ".")}
        expected |= {t: v for t, v in part.expected.items() if t in (name, f"{name}.weight", f"{name}.bias")}
    return Written(tensors, expected, {"format": "pt"})


def _peft_bias(width: Width) -> Written:
    """PEFT with lora_bias: the up layer's own bias."""
    written = plain(lambda name: f"base_model.model.{name}")(width)
    for i, name in enumerate(width.linear()):
        bias = _draw(900 + i, width.linear()[name][0])
        written.tensors[f"base_model.model.{name}.lora_B.bias"] = bias
        written.expected[f"{name}.bias"] = bias.double()
    return written


def _stabilised(width: Width) -> Written:
    """diffusers keeps alpha in its metadata only; here with √rank, and another alpha for one kind of layer."""
    written = plain(lambda name: f"transformer.{name}")(width)
    config = {"transformer.r": 4, "transformer.lora_alpha": 3, "transformer.use_rslora": True,
              "transformer.alpha_pattern": {"attn1.to_q": 6}}  # fmt: skip
    written.metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(config)}
    for name in written.expected:
        written.expected[name] *= (6 if name.endswith("attn1.to_q") else 3) / math.sqrt(4)
    return written


FORMATS: dict[str, Callable[[Width], Written]] = {
    "ai-toolkit": plain(_ai_toolkit, metadata=AI_TOOLKIT),
    "ai-toolkit before July 2025": plain(
        lambda name: _ai_toolkit(name).replace("k_img", "add_k_proj").replace("v_img", "add_v_proj")
    ),
    "ai-toolkit combined, high": _two_transformers(
        {"high": "diffusion_model.transformer_1.", "low": "diffusion_model.transformer_2."}, "high"
    ),
    "ai-toolkit combined, low": _two_transformers(
        {"high": "diffusion_model.transformer_1.", "low": "diffusion_model.transformer_2."}, "low"
    ),
    "ai-toolkit lokr, both whole, alpha 1e10": lokr(_ai_toolkit, True, True, 1e10),
    "ai-toolkit lokr, both whole, alpha infinite": lokr(_ai_toolkit, True, True, math.inf),
    "ai-toolkit lokr, w2 factored": lokr(_ai_toolkit, True, False, 4.0),
    "ai-toolkit lokr, w1 factored": lokr(_ai_toolkit, False, True, 2.0),
    "ai-toolkit lokr, both factored": lokr(_ai_toolkit, False, False, 1.0),
    "ai-toolkit lokr, half-converted names": lokr(_half_converted, True, False, 4.0),
    "LyCORIS loha": loha(_lycoris, 1.5),
    "LyCORIS loha without alpha": loha(_lycoris, None),
    "LyCORIS lokr with norms": _lycoris_norms,
    "ai-toolkit dora": dora(_ai_toolkit, ".magnitude"),
    "dora_scale, as a column": dora(_ai_toolkit, ".dora_scale", column=True),
    "peft dora": dora(lambda name: f"base_model.model.{name}", ".lora_magnitude_vector.weight"),
    "ai-toolkit full rank": _full_rank,
    "full layers": _full_layers,
    "musubi": plain(
        _kohya, ".lora_down.weight", ".lora_up.weight", 2.0,
        {"ss_network_module": "networks.lora_wan", "ss_network_dim": "4", "ss_network_alpha": "2", "ss_steps": "900"},
    ),
    "musubi, odd alpha": plain(_kohya, ".lora_down.weight", ".lora_up.weight", 3.0),
    "musubi with dots": plain(_ai_toolkit, ".lora_down.weight", ".lora_up.weight", 1.0),
    "VideoX-Fun": plain(
        lambda name: "lora_unet__" + original(name).replace(".", "_"), ".lora_down.weight", ".lora_up.weight", 4.0
    ),
    "DiffSynth": plain(original, ".lora_A.default.weight", ".lora_B.default.weight"),
    "DiffSynth without default": plain(original),
    "DiffSynth under pipe.dit": plain(
        lambda name: f"pipe.dit.{original(name)}", ".lora_A.default.weight", ".lora_B.default.weight"
    ),
    "diffusers": plain(lambda name: f"transformer.{name}"),
    "diffusers, alpha in metadata": _stabilised,
    "diffusers, both transformers, high": _two_transformers({"high": "transformer.", "low": "transformer_2."}, "high"),
    "diffusers, both transformers, low": _two_transformers({"high": "transformer.", "low": "transformer_2."}, "low"),
    "diffusers, second transformer": _second_only,
    "PEFT": plain(lambda name: f"base_model.model.{name}"),
    "PEFT with bias": _peft_bias,
    "other loaders": plain(lambda name: f"model.diffusion_model.{original(name)}"),
    "lightx2v": _lightx2v,
    "diffusion-pipe": plain(_ai_toolkit),
    "mixed": _mixed,
}  # fmt: skip


# ---- Headers of real size: no tensors, a sparse file

REAL = {
    "wan21_1b": (1536, 8960, 30, False),
    "wan22_5b": (3072, 14336, 30, False),
    "14b": (5120, 13824, 40, False),
    "wan21_i2v": (5120, 13824, 40, True),
}
BYTES = {"F32": 4, "BF16": 2, "F16": 2, "F64": 8, "U8": 1}


Listed = Mapping[str, tuple[str, tuple[int, ...]]]  # name -> (dtype, shape)


def header_bytes(tensors: Listed, metadata: Mapping[str, str] | None) -> tuple[bytes, int]:
    """A safetensors head (length and JSON) and the size of the data behind it."""
    listed: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    at = 0
    for name, (dtype, shape) in tensors.items():
        size = BYTES[dtype] * math.prod(shape)
        listed[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(listed, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, at


def sparse(path: Path, tensors: Listed, metadata: Mapping[str, str] | None) -> Path:
    """A file of full size whose data is a hole."""
    head, size = header_bytes(tensors, metadata)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + size)
    return path


def real_tensors(family: str, kind: str, combined: bool, rank: int = 32) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The tensors of an AI Toolkit file of a family (a key of REAL), bf16."""
    hidden, ffn, blocks, image = REAL[family]
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for prefix in ("transformer_1.", "transformer_2.") if combined else ("",):
        for n in range(blocks):
            for diffusers, name in ORIGINAL.items():
                if diffusers in IMAGE and not image:
                    continue
                out = ffn if name == "ffn.0" else hidden
                into = ffn if name == "ffn.2" else hidden
                stem = f"diffusion_model.{prefix}blocks.{n}.{name}"
                found: dict[str, tuple[int, ...]] = {
                    "lora": {"lora_A.weight": (rank, into), "lora_B.weight": (out, rank)},
                    "dora": {"lora_A.weight": (rank, into), "lora_B.weight": (out, rank), "magnitude": (out,)},
                    "lokr": {"lokr_w1": (16, 16), "lokr_w2": (out // 16, into // 16), "alpha": ()},
                    "full": {"lora_A.weight": (out, into)},
                    "diff": {"diff": (out, into), "diff_b": (out,)},
                }[kind]  # type: ignore[assignment]
                tensors |= {f"{stem}.{role}": ("BF16", shape) for role, shape in found.items()}
    return tensors
