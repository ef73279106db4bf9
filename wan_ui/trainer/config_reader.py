"""Reads a training job's config as untyped data: typed values, all faults at once, and keys that nothing reads."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from wan_ui.errors import JobConfigInvalid
from wan_ui.request import LONGEST_TEXT
from wan_ui.text import one_line
from wan_ui.trainer.safe_yaml import load

MOST_UNKNOWN = 100
PROCESS = "config.process.0"  # the path of the one process that is read

# The trainer's classes' own values where a key is absent: SampleConfig in toolkit/config_modules.py.
SAMPLE_DEFAULTS: Mapping[str, int | float | str] = MappingProxyType(
    {
        "width": 512,
        "height": 512,
        "num_frames": 1,
        "fps": 16,
        "guidance_scale": 7.0,
        "sample_steps": 20,
        "network_multiplier": 1.0,
        "neg": "",
    }
)
# Keys of a job that change no sample, or that trainer/job.py reads. Any other is listed as unknown.
KNOWN: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "": frozenset({"job", "config", "meta"}),
        "config": frozenset({"name", "process", "device", "meta", "training_folder", "log_dir"}),
        "process": frozenset(
            {
                "type", "training_folder", "sqlite_db_path", "device", "trigger_word", "performance_log_every",
                "network", "save", "datasets", "train", "model", "sample", "first_sample", "logging", "meta", "log_dir",
                "adapter", "embedding", "decorator", "slider", "datasets_reg", "torch_profiler", "validation",
            }
        ),
        "model": frozenset(
            {
                "name_or_path", "arch", "quantize", "qtype", "quantize_te", "qtype_te", "low_vram", "model_kwargs",
                "dtype", "vae_path", "vae_dtype", "te_name_or_path", "te_dtype", "layer_offloading",
                "layer_offloading_transformer_percent", "layer_offloading_text_encoder_percent", "quantize_kwargs",
                "assistant_lora_path", "inference_lora_path", "accuracy_recovery_adapter", "unet_path", "lora_path",
                "extras_name_or_path", "split_model_over_gpus", "attn_masking", "compile", "latent_space_version",
                "block_compile", "compile_mode", "compile_fullgraph", "compile_dynamic", "cache_size_limit",
                "model_paths", "in_context", "ignore_if_contains", "only_if_contains", "auto_memory",
            }
        ),
        "model_kwargs": frozenset({"train_high_noise", "train_low_noise", "vae_tiling", "use_comfy_weights"}),
        "sample": frozenset(
            {
                *SAMPLE_DEFAULTS, "seed", "walk_seed", "sampler", "prompts", "samples", "sample_every", "format",
                "guidance_rescale", "adapter_conditioning_scale", "refiner_start_at", "extra_values", "do_cfg_norm",
                "ext", "sample_start_step",
            }
        ),
        "item": frozenset(
            {
                *SAMPLE_DEFAULTS, "prompt", "seed", "ctrl_img", "ctrl_idx", "ctrl_img_1", "ctrl_img_2", "ctrl_img_3",
                "do_cfg_norm",
            }
        ),
        "network": frozenset(
            {
                "type", "linear", "linear_alpha", "rank", "alpha", "conv", "conv_alpha", "dropout", "network_kwargs",
                "lokr_full_rank", "lokr_factor", "split_multistage_loras", "transformer_only", "lorm",
                "pretrained_lora_path", "old_lokr_format", "all_layers", "ignore_if_contains", "only_if_contains",
            }
        ),
    }
)  # fmt: skip


class ConfigReader:
    """Takes values out of plain data by type and collects what is wrong, so that all faults are reported at once."""

    def __init__(self) -> None:
        self._wrong: list[tuple[str, str]] = []

    def wrong(self, loc: str, msg: str) -> None:
        """Records a fault at a path such as `config.process.0.model.arch`."""
        self._wrong.append((loc, msg))

    def raise_if_wrong(self) -> None:
        """Raises JobConfigInvalid when anything was wrong."""
        if self._wrong:
            loc, msg = self._wrong[0]
            raise JobConfigInvalid(
                f"The job config cannot be used: {loc}: {msg}. Give the config.yaml of an AI Toolkit job unchanged.",
                fields=[{"loc": loc, "msg": msg} for loc, msg in self._wrong[:MOST_UNKNOWN]],
            )

    def mapping(self, value: Any, loc: str, needed: bool = False) -> Mapping[Any, Any]:
        """A mapping; empty for what is left out, unless it is `needed`."""
        if isinstance(value, dict):
            return value
        if value is not None or needed:
            self.wrong(loc, "keys with values are needed here")
            if needed:
                self.raise_if_wrong()
        return {}

    def sequence(self, value: Any, loc: str) -> Sequence[Any]:
        """A list; empty for what is left out."""
        if isinstance(value, list):
            return value
        if value is not None:
            self.wrong(loc, "a list is needed here")
        return ()

    def text(self, value: Any, loc: str) -> str | None:
        """A text; None for what is left out."""
        if value is None:
            return None
        if not isinstance(value, str):
            self.wrong(loc, "text is needed here")
        elif len(value) > LONGEST_TEXT:
            self.wrong(loc, f"longer than {LONGEST_TEXT} characters")
        else:
            return value
        return None

    def number(self, value: Any, loc: str, whole: bool) -> int | float | None:
        """A number, also one in quotes; None for what is left out."""
        if value is None:
            return None
        number = _finite(value)
        if number is None or (whole and number != int(number)):
            self.wrong(loc, "a whole number is needed here" if whole else "a number is needed here")
            return None
        return int(number) if whole else float(number)


_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,3})?")
_LARGEST = 2**64


def _finite(value: Any) -> int | float | None:
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        text = value.strip()
        value = int(text) if text.lstrip("+-").isdecimal() else float(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= _LARGEST and math.isfinite(value) else None


@dataclass(frozen=True)
class ConfigSections:
    """The parts of a config that the importer reads; a part that is left out is empty."""

    document: Mapping[Any, Any]
    config: Mapping[Any, Any]
    process: Mapping[Any, Any]
    model: Mapping[Any, Any]
    model_kwargs: Mapping[Any, Any]
    network: Mapping[Any, Any]
    sample: Mapping[Any, Any]


def read_sections(text: str | bytes, reader: ConfigReader) -> ConfigSections:
    """The parts of a config.yaml. Raises JobConfigInvalid when it is not the config of a job."""
    document = reader.mapping(load(text), "config.yaml", needed=True)
    config = reader.mapping(document.get("config"), "config", needed=True)
    processes = reader.sequence(config.get("process"), "config.process")
    reader.raise_if_wrong()
    if not processes:
        reader.wrong("config.process", "a list with the job's process is needed")
    reader.raise_if_wrong()
    process = reader.mapping(processes[0], PROCESS, needed=True)
    model = reader.mapping(process.get("model"), f"{PROCESS}.model", needed=True)
    return ConfigSections(
        document,
        config,
        process,
        model,
        reader.mapping(model.get("model_kwargs"), f"{PROCESS}.model.model_kwargs"),
        reader.mapping(process.get("network"), f"{PROCESS}.network"),
        reader.mapping(process.get("sample"), f"{PROCESS}.sample"),
    )


def job_name(text: str | bytes) -> str | None:
    """The job's name, which its saves' file names start with; None where the text has none, or is no config."""
    try:
        document = load(text)
    except JobConfigInvalid:
        return None  # import_job says what is wrong with it
    config = document.get("config") if isinstance(document, dict) else None
    name = config.get("name") if isinstance(config, dict) else None
    return name if isinstance(name, str) and name else None


def unknown_keys(sections: ConfigSections) -> Iterator[tuple[str, str]]:
    """Dotted names of the keys that nothing reads, each with the start of its value."""
    sample = sections.sample
    levels = [
        ("", "", sections.document),
        ("config.", "config", sections.config),
        (f"{PROCESS}.", "process", sections.process),
        (f"{PROCESS}.model.", "model", sections.model),
        (f"{PROCESS}.model.model_kwargs.", "model_kwargs", sections.model_kwargs),
        (f"{PROCESS}.network.", "network", sections.network),
        (f"{PROCESS}.sample.", "sample", sample),
    ]
    items = sample.get("samples")
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict):
            levels.append((f"{PROCESS}.sample.samples.{index}.", "item", item))
    count = 0
    for prefix, level, keys in levels:
        for key in keys:
            if key not in KNOWN[level] and count < MOST_UNKNOWN:
                count += 1
                yield prefix + _start(key), _start(keys[key])


def _start(value: Any) -> str:
    """The start of a value, without converting a large one."""
    if isinstance(value, dict | list):
        return f"{len(value)} entries"
    if isinstance(value, int) and abs(value) > _LARGEST:
        return "a number too large to write"
    return clipped(value if isinstance(value, str) else str(value))


def quoted(text: str) -> str:
    """A value of the config in quotes, for a message."""
    return f'"{clipped(text)}"'


def clipped(text: str) -> str:
    """A value of the config in one line of at most 80 characters."""
    return one_line(text, 80)
