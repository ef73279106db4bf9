"""The table of speed LoRAs: distilled files that make a video in a few steps, and the settings they were distilled for.

The files are linked, never shipped. Steps, guidance, shift and scale are those that the files' authors or the programs
that use them state; `source` says where. Guidance must be 1: the files replace it, and above 1 the picture blurs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from wan_ui.models import (
    WAN21_1B,
    WAN21_14B,
    WAN21_I2V_14B,
    WAN21_I2V_14B_480P,
    WAN22_5B,
    WAN22_14B_I2V,
    WAN22_14B_T2V,
    Sampler,
    WanModel,
)

SPEED_FIELDS = ("sample_steps", "guidance_scale", "sampler", "flow_shift")
"""The fields of a prompt that a speed LoRA sets where the request leaves them out."""

_COMFY = "hf://Comfy-Org/Wan_2.2_ComfyUI_Repackaged/split_files/loras/"
_KIJAI = "hf://Kijai/WanVideo_comfy/"
_DISTILL_21, _DISTILL_22 = "hf://lightx2v/Wan2.1-Distill-Loras/", "hf://lightx2v/Wan2.2-Distill-Loras/"
_DISTILL_I2V = "8833bd4fd7c8eabebf0bc8ee5cfaf47f4f310ce116928a02c1adf8941dd4b0f1"  # of 2.1 and of 2.2's low-noise half
_SUFFIX = r"\.safetensors"


@dataclass(frozen=True)
class SpeedFile:
    """One file of a speed LoRA for one slot, used at `scale`.

    `hub` is where it is downloaded from, as an `hf://` address. `names` are regular expressions for the end of a
    path, in the order of preference: the same weights have several names. `sha256` is known where a public listing
    states it.
    """

    hub: str
    names: tuple[str, ...] = ()
    scale: float = 1.0
    sha256: str | None = None

    def matches(self, path: str) -> int | None:
        """The index of the first name that a path ends with; None where it has another name."""
        own = re.escape(self.hub.rpartition("/")[2])
        for index, name in enumerate((own, *self.names)):
            if re.search(rf"(?:^|/){name}$", path, re.IGNORECASE):
                return index
        return None


@dataclass(frozen=True)
class SpeedLora:
    """A speed LoRA: its files by slot, the models it is for, and the settings it was made for."""

    id: str
    label: str
    models: tuple[str, ...]
    files: Mapping[str, SpeedFile]
    sample_steps: int
    sampler: Sampler
    flow_shift: float
    source: str
    guidance_scale: float = 1.0
    note: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """The prompt's fields that it sets, by wire name."""
        return {name: getattr(self, name) for name in SPEED_FIELDS}


def _pair(high: SpeedFile, low: SpeedFile) -> Mapping[str, SpeedFile]:
    return MappingProxyType({"high": high, "low": low})


def _single(file: SpeedFile) -> Mapping[str, SpeedFile]:
    return MappingProxyType({"single": file})


def _lightning(kind: str, version: str, folder: str) -> Mapping[str, SpeedFile]:
    """ComfyUI's copies of a Lightning pair; the original's files have the same names in every folder."""
    return _pair(
        *(
            SpeedFile(
                f"{_COMFY}wan2.2_{kind}_lightx2v_4steps_lora_{version}_{half}_noise.safetensors",
                (rf"[^/]*{folder}[/_]{half}_noise_model{_SUFFIX}",),
            )
            for half in ("high", "low")
        )
    )


def _distilled(kind: str, date: str, high_sha256: str, low_sha256: str) -> Mapping[str, SpeedFile]:
    return _pair(
        *(
            SpeedFile(
                f"{_DISTILL_22}wan2.2_{kind}_A14b_{half}_noise_lora_rank64_lightx2v_4step_{date}.safetensors",
                sha256=sha256,
            )
            for half, sha256 in (("high", high_sha256), ("low", low_sha256))
        )
    )


_FOUR_STEPS: dict[str, Any] = {"sample_steps": 4, "sampler": "euler", "flow_shift": 5.0}
_LIGHTX2V = "LightX2V: 4 steps, guidance off, shift 5, strength 1"
_SLOW_MOTION = "Motion may be slow, for which the high-noise half is blamed."

SPEED_LORAS: Mapping[str, SpeedLora] = MappingProxyType(
    {
        entry.id: entry
        for entry in (
            SpeedLora(
                "lightning_22_t2v",
                "Lightning 4 steps (2.2 T2V, V1.1)",
                (WAN22_14B_T2V.id,),
                _lightning("t2v", "v1.1", r"T2V-A14B-4steps-lora-rank64-Seko-V1\.1"),
                **_FOUR_STEPS,
                source="lightx2v/Wan2.2-Lightning and ComfyUI's template: Euler, simple, 2+2 steps, shift 5, cfg 1",
                note=_SLOW_MOTION,
            ),
            SpeedLora(
                "distill_22_t2v",
                "LightX2V 4 steps (2.2 T2V, 1217)",
                (WAN22_14B_T2V.id,),
                _distilled(
                    "t2v",
                    "1217",
                    "89003385f8a9d53ba58fd6ede647fdc90292e8568a54683fcfe6db5556a31769",
                    "4df7c206f3189472da2f92c0a42dcf308f04433d9c14302d08d56e99a3f51322",
                ),
                **_FOUR_STEPS,
                source=f"lightx2v/Wan2.2-Distill-Loras; {_LIGHTX2V}",
                note=_SLOW_MOTION,
            ),
            SpeedLora(
                "lightning_22_i2v",
                "Lightning 4 steps (2.2 I2V, V1)",
                (WAN22_14B_I2V.id,),
                _lightning("i2v", "v1", r"I2V-A14B-4steps-lora-rank64-Seko-V1"),
                **_FOUR_STEPS,
                source="lightx2v/Wan2.2-Lightning and ComfyUI's template: Euler, simple, 2+2 steps, shift 5, cfg 1",
                note=_SLOW_MOTION,
            ),
            SpeedLora(
                "distill_22_i2v",
                "LightX2V 4 steps (2.2 I2V, 1022)",
                (WAN22_14B_I2V.id,),
                _distilled(
                    "i2v", "1022", "887c3bdeb74e83859c920438e16ca31f39ab18ce189abc5f0e36f8348c5bbb19", _DISTILL_I2V
                ),
                **_FOUR_STEPS,
                source=f"lightx2v/Wan2.2-Distill-Loras; {_LIGHTX2V}",
                note=_SLOW_MOTION,
            ),
            SpeedLora(
                "lightx2v_21_t2v",
                "LightX2V 4 steps (2.1 T2V 14B)",
                (WAN21_14B.id,),
                _single(
                    SpeedFile(
                        f"{_DISTILL_21}wan2.1_t2v_14b_lora_rank64_lightx2v_4step.safetensors",
                        (
                            rf"lightx2v_T2V_14B_cfg_step_distill_v2_lora_rank\d+_bf16{_SUFFIX}",
                            rf"Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32{_SUFFIX}",
                        ),
                    )
                ),
                **_FOUR_STEPS,
                source=f"lightx2v/Wan2.1-Distill-Loras and Kijai/WanVideo_comfy; {_LIGHTX2V}",
            ),
            SpeedLora(
                "lightx2v_21_i2v",
                "LightX2V 4 steps (2.1 I2V 14B)",
                (WAN21_I2V_14B.id, WAN21_I2V_14B_480P.id),
                _single(
                    SpeedFile(
                        f"{_DISTILL_21}wan2.1_i2v_lora_rank64_lightx2v_4step.safetensors",
                        (rf"lightx2v_I2V_14B_480p_cfg_step_distill_rank\d+_bf16{_SUFFIX}",),
                        sha256=_DISTILL_I2V,
                    )
                ),
                **_FOUR_STEPS,
                source=f"lightx2v/Wan2.1-Distill-Loras and Kijai/WanVideo_comfy; {_LIGHTX2V}",
            ),
            SpeedLora(
                "causvid_21_t2v",
                "CausVid 8 steps (2.1 T2V 14B)",
                (WAN21_14B.id,),
                _single(
                    SpeedFile(
                        f"{_KIJAI}Wan21_CausVid_14B_T2V_lora_rank32_v2.safetensors",
                        (
                            rf"Wan21_CausVid_14B_T2V_lora_rank32_v1_5[^/]*{_SUFFIX}",
                            rf"Wan21_CausVid_14B_T2V_lora_rank32{_SUFFIX}",
                        ),
                        scale=0.6,
                    )
                ),
                sample_steps=8,
                sampler="unipc",
                flow_shift=7.0,
                source="Kijai/WanVideo_comfy; Wan2GP's documentation: guidance 1, shift 7, strength 0.5-0.7 at 8 steps",
                note="The first version flashes at full strength and reduces motion; the second does less.",
            ),
            SpeedLora(
                "causvid_21_1b",
                "CausVid 8 steps (2.1 T2V 1.3B)",
                (WAN21_1B.id,),
                _single(SpeedFile(f"{_KIJAI}Wan21_CausVid_bidirect2_T2V_1_3B_lora_rank32.safetensors")),
                sample_steps=8,
                sampler="unipc",
                flow_shift=2.0,
                source="Kijai/WanVideo_comfy; Wan2GP: 8 steps, guidance 1, shift 2, on timesteps of its own",
            ),
            SpeedLora(
                "fastwan_22_5b",
                "FastWan 3 steps (2.2 TI2V 5B)",
                (WAN22_5B.id,),
                _single(SpeedFile(f"{_KIJAI}FastWan/Wan2_2_5B_FastWanFullAttn_lora_rank_128_bf16.safetensors")),
                sample_steps=3,
                sampler="lcm",
                flow_shift=3.0,
                source="Kijai/WanVideo_comfy and FastVideo, which trained it with new noise after each step; Wan2GP: "
                "3 steps, guidance 1, shift 3",
            ),
        )
    }
)


def of_model(model: WanModel) -> tuple[SpeedLora, ...]:
    """The speed LoRAs of a model, the usual one first."""
    return tuple(entry for entry in SPEED_LORAS.values() if model.id in entry.models)


def own_values(speed: SpeedLora, chosen: Any) -> dict[str, Any]:
    """The settings of a generation that differ from the speed LoRA's: the request gave them."""
    return {name: getattr(chosen, name) for name, value in speed.settings.items() if getattr(chosen, name) != value}
