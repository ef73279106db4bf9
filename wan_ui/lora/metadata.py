"""What a LoRA file's metadata says about the file: untrusted text, capped to one line each."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from wan_ui.text import one_line


@dataclass(frozen=True)
class LoraMetadata:
    """What the metadata says; `hash` is the same in both halves of one AI Toolkit save.

    `adapter_config` is diffusers' `lora_adapter_metadata`: `transformer.lora_alpha` and others.
    """

    trainer: str | None
    version: str | None
    base: str | None
    step: int | None
    epoch: int | None
    trigger: str | None
    output_name: str | None
    hash: str | None
    adapter_config: Mapping[str, Any]

    @staticmethod
    def of(metadata: Mapping[str, str]) -> LoraMetadata:
        """Reads the metadata of AI Toolkit, musubi, kohya and diffusers."""
        software = _json(metadata.get("software"))
        info = _json(metadata.get("training_info"))
        trainer, version = _text(software.get("name")), _text(software.get("version"))
        network = metadata.get("ss_network_module", "")
        if trainer is None and network:
            trainer = "musubi-tuner" if "lora_wan" in network or "networks.lo" in network else one_line(network)
        return LoraMetadata(
            trainer=trainer,
            version=version,
            base=_text(metadata.get("ss_base_model_version")) or _text(metadata.get("modelspec.architecture")),
            step=_whole(info.get("step"), metadata.get("ss_steps"), metadata.get("step")),
            epoch=_whole(info.get("epoch"), metadata.get("ss_epoch"), metadata.get("epoch")),
            trigger=_trigger(metadata),
            output_name=_text(metadata.get("ss_output_name")) or _text(metadata.get("name")),
            hash=_text(metadata.get("sshs_model_hash")),
            adapter_config=_json(metadata.get("lora_adapter_metadata")),
        )

    def stated_alpha(self, component: str, names: Sequence[str], rank: int) -> float | None:
        """The alpha that the adapter config gives a module of a component ("transformer"), or None.

        `names`: the module's, diffusers' and as the file writes it. diffusers and PEFT keep alpha nowhere else. The
        scale of a rank-stabilised LoRA is alpha / √rank: its alpha is returned such that alpha / rank is that scale.
        """
        alpha = self.adapter_config.get(f"{component}.lora_alpha")
        pattern = self.adapter_config.get(f"{component}.alpha_pattern")
        if isinstance(pattern, dict):
            for name, value in pattern.items():
                if any(module == name or module.endswith(f".{name}") for module in names):
                    alpha = value
                    break
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
            return None
        return float(alpha) * (math.sqrt(rank) if self.adapter_config.get(f"{component}.use_rslora") is True else 1.0)


ADAPTER_CONFIG = "adapter_config.json"  # PEFT's, beside its adapter_model.safetensors
LARGEST_CONFIG = 1 << 20  # bytes


def read_adapter_config(path: Path) -> Mapping[str, Any]:
    """PEFT's adapter_config.json beside a LoRA file, in the form of diffusers' own; empty when there is none."""
    beside = path.with_name(ADAPTER_CONFIG)
    try:
        if beside.is_symlink() or not 0 < beside.stat().st_size <= LARGEST_CONFIG:
            return MappingProxyType({})
        config = _json(beside.read_bytes().decode("utf-8"))
    except (OSError, ValueError):
        return MappingProxyType({})  # as good as none: alpha is then taken as equal to the rank, and the notes say so
    return {
        f"{component}.{name}": config[name]
        for component in ("transformer", "transformer_2")
        for name in ("lora_alpha", "alpha_pattern", "use_rslora")
        if name in config
    }


def _json(text: str | None) -> Mapping[str, Any]:
    if not text:
        return MappingProxyType({})
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return MappingProxyType({})
    return value if isinstance(value, dict) else MappingProxyType({})


def _text(value: object) -> str | None:
    return (one_line(value) or None) if isinstance(value, str) else None


def _whole(*values: object) -> int | None:
    for value in values:
        if type(value) is int and 0 <= value < 2**53:
            return value
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,15}", value):
            return int(value)
    return None


def _trigger(metadata: Mapping[str, str]) -> str | None:
    """The trigger word: as the metadata states it, else the commonest tag (AI Toolkit writes the word as a tag)."""
    for name in ("modelspec.trigger_phrase", "trigger_word", "trigger_words", "ss_trigger_words"):
        stated = _text(metadata.get(name))
        if stated:
            return stated
    tags: Counter[str] = Counter()
    for counted in _json(metadata.get("ss_tag_frequency")).values():
        if isinstance(counted, dict):
            tags.update({tag: count for tag, count in counted.items() if type(count) is int and 0 < count < 2**53})
    if not tags:
        return None
    return one_line(tags.most_common(1)[0][0]) or None
