"""Components from files to modules: loads what is missing, keeps what is the same files; it knows no request."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import diffusers
import torch
import transformers
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors import safe_open
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionModel,
    PreTrainedTokenizerBase,
    UMT5EncoderModel,
)

from wan_ui.checkpoints.configs import check_config, read_config
from wan_ui.checkpoints.folders import Checkpoints, Component
from wan_ui.checkpoints.modules import count_elements, load_module, open_file
from wan_ui.checkpoints.sources import KINDS
from wan_ui.checkpoints.tokenizers import tokenizer_of_file, tokenizer_of_folder
from wan_ui.engine.prefetch import Prefetcher, has_room
from wan_ui.engine.result import OnProgress, Progress
from wan_ui.errors import CheckpointIncomplete
from wan_ui.models import WanModel

log = logging.getLogger(__name__)

T = TypeVar("T")

TRANSFORMERS = ("transformer", "transformer_2")
MODULES = (*TRANSFORMERS, "vae", "text_encoder", "image_encoder")
SAY_SECONDS = 0.25  # between two reports of a load

# Their bars would stand between the lines of the log; what is loaded is said by Progress.
diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()


@dataclass(frozen=True)
class Components:
    """What a row is made of, loaded. `files` says which files each part came from."""

    transformers: Mapping[str, WanTransformer3DModel]
    vae: AutoencoderKLWan
    text_encoder: UMT5EncoderModel
    tokenizer: PreTrainedTokenizerBase
    image_encoder: CLIPVisionModel | None
    image_processor: CLIPImageProcessorPil | None
    scheduler_config: Mapping[str, Any] | None
    boundary_ratio: float | None
    files: Mapping[str, Component]


@dataclass(frozen=True)
class Target:
    """Where and how weights are loaded: `device` for the parts that stay there, `host` for those that visit."""

    device: torch.device
    dtype: torch.dtype
    on_host: frozenset[str] = frozenset()

    def place(self, name: str) -> torch.device:
        return torch.device("cpu") if name in self.on_host else self.device


@dataclass
class LoadCounts:
    """How often files were read, for tests and the log: component loads and bytes."""

    loads: int = 0
    bytes_read: int = 0
    kept: int = 0
    names: list[str] = field(default_factory=list)


def model_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on CUDA (and MPS), float32 on the CPU, in both recipes."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def load_components(
    row: WanModel,
    files: Mapping[str, Component],
    target: Target,
    kept: Mapping[str, Any],
    counts: LoadCounts,
    on_progress: OnProgress,
) -> Components:
    """Every part of the row; those in `kept` are taken as they are, the rest is read straight to its device.

    Raises CheckpointIncomplete when a file is there but cannot be used.
    """
    parts: dict[str, Any] = dict(kept)
    # The small parts first: what is wrong with a config or tokenizer is found before gigabytes are read.
    missing = sorted((name for name in row.components if name not in parts), key=lambda name: name in MODULES)
    total = sum(files[name].size for name in missing)
    loaded = 0
    counts.kept += len(parts)
    ahead = Prefetcher([file for name in missing for file in files[name].files] if has_room(total) else [])

    def say(name: str) -> None:
        """What the readers have got to; without them, or behind what is loaded already, that."""
        done = min(total, max(loaded, ahead.done))
        on_progress(
            Progress("loading", bytes_done=done, bytes_total=total, note=_words(name), bytes_per_second=ahead.rate)
        )

    ahead.start()
    try:
        for name in missing:
            say(name)
            with _readable(files[name]):
                loader = _LOADERS[name] if files[name].single is None else _load_single_file
                load = partial(loader, files[name], target.place(name), target.dtype)
                parts[name] = _with_progress(load, partial(say, name))
            loaded += files[name].size
            if name in MODULES:
                counts.loads += 1
                counts.names.append(name)
                counts.bytes_read += files[name].size
            say(name)
    finally:
        ahead.stop()
    return Components(
        transformers={name: parts[name] for name in TRANSFORMERS if name in parts},
        vae=parts["vae"],
        text_encoder=parts["text_encoder"],
        tokenizer=parts["tokenizer"],
        image_encoder=parts.get("image_encoder"),
        image_processor=parts.get("image_processor"),
        scheduler_config=parts.get("scheduler"),
        boundary_ratio=parts.get("model_index", {}).get("boundary_ratio"),
        files=files,
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def _with_progress(load: Callable[[], T], say: Callable[[], None]) -> T:
    """What `load` gave, on a thread of its own, while `say` is called now and then.

    What `say` raises, such as Cancelled, comes up when the load has ended: half a model is of no use to anybody.
    """
    with ThreadPoolExecutor(1, "load") as loader:
        result = loader.submit(load)
        while not wait((result,), SAY_SECONDS).done:
            say()
    try:
        return result.result()
    finally:
        del result  # it holds its error, whose trace holds this frame, and with it whatever was loaded


def same_parts(checkpoints: Checkpoints, held: Components, wanted: Mapping[str, Component]) -> dict[str, Any]:
    """The held parts whose files are byte for byte those wanted under the same name."""
    loaded: dict[str, Any] = {
        **held.transformers,
        "vae": held.vae,
        "text_encoder": held.text_encoder,
        "tokenizer": held.tokenizer,
        "image_encoder": held.image_encoder,
        "image_processor": held.image_processor,
    }
    return {
        name: part
        for name, part in loaded.items()
        if part is not None
        and name in wanted
        and name in held.files
        and checkpoints.same_files(held.files[name], wanted[name])
    }


class _readable:
    """Maps a loader's failure to CheckpointIncomplete with the component's name; out of memory passes through."""

    def __init__(self, component: Component) -> None:
        self._component = component

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, torch.OutOfMemoryError):
            return
        if isinstance(error, (OSError, ValueError, RuntimeError, KeyError, TypeError)):
            name = self._component.name
            log.error("loading %s from %s failed", name, self._component.folder, exc_info=error)
            raise CheckpointIncomplete(
                f"The checkpoint's {name} cannot be loaded: its files do not fit together or are damaged. "
                "Copy or download them again.",
                component=name,
            ) from error


def _on(device: torch.device) -> dict[str, Any]:
    """Straight to the device: no copy of the weights in host memory first."""
    return {"device_map": str(device)} if device.type == "cuda" else {}


def _transformer(part: Component, device: torch.device, dtype: torch.dtype) -> WanTransformer3DModel:
    model = WanTransformer3DModel.from_pretrained(part.folder, torch_dtype=dtype, **_on(device))
    return _still(model, device)


def _vae(part: Component, device: torch.device, dtype: torch.dtype) -> AutoencoderKLWan:
    return _still(AutoencoderKLWan.from_pretrained(part.folder, torch_dtype=dtype), device)


def _text_encoder(part: Component, device: torch.device, dtype: torch.dtype) -> UMT5EncoderModel:
    return _still(UMT5EncoderModel.from_pretrained(part.folder, dtype=dtype, **_on(device)), device)


def _image_encoder(part: Component, device: torch.device, dtype: torch.dtype) -> CLIPVisionModel:
    return _still(CLIPVisionModel.from_pretrained(part.folder, dtype=dtype, **_on(device)), device)


def _load_single_file(part: Component, device: torch.device, dtype: torch.dtype) -> Any:
    """A component from a single checkpoint file: a tokenizer from its vocabulary, or a module with its weights."""
    if part.single is None:
        raise AssertionError(f"{part.name} does not come from a single file")
    if part.name == "tokenizer":
        return tokenizer_of_file(part.single.header)
    single = part.single
    return load_module(open_file(single.header, single.kind, single.config), single.kind, single.config, device, dtype)


def _image_processor(part: Component, device: torch.device, dtype: torch.dtype) -> CLIPImageProcessorPil:
    # By name: plain CLIPImageProcessor computes other numbers where torchvision is installed.
    return CLIPImageProcessorPil.from_pretrained(part.folder)


def _tokenizer(part: Component, device: torch.device, dtype: torch.dtype) -> PreTrainedTokenizerBase:
    return tokenizer_of_folder(part.folder, part.name)


def _config(part: Component, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(part.files[0].read_bytes())
    return config


def _still(model: Any, device: torch.device) -> Any:
    """Evaluation mode, no gradients, on the device."""
    return model.eval().requires_grad_(False).to(device)


_LOADERS: Mapping[str, Callable[[Component, torch.device, torch.dtype], Any]] = {
    "transformer": _transformer,
    "transformer_2": _transformer,
    "vae": _vae,
    "text_encoder": _text_encoder,
    "image_encoder": _image_encoder,
    "image_processor": _image_processor,
    "tokenizer": _tokenizer,
    "scheduler": _config,
    "model_index": _config,
}


def checked_elements(model: WanModel, component: Component) -> int:
    """How many numbers a component's weights hold, once its config, names and shapes were found to be the model's.

    Raises CheckpointInvalid for another model's, CheckpointIncomplete for files that are not whole.
    """
    if component.single is None:
        shown = f"{component.name}/config.json"
        check_config(model, component.name, read_config(component.folder / "config.json", shown), shown)
    return count_elements(component, KINDS[component.name])


def read_tensor(component: Component, name: str) -> torch.Tensor:
    """One tensor of a component's weights, by its name in diffusers' layout. Raises CheckpointIncomplete."""
    single = component.single
    if single is not None:
        with open_file(single.header, single.kind, single.config).reader() as reader:
            # In float32, so that whoever rounds it to the model's dtype rounds once.
            return reader.read(name, torch.float32)
    for file in component.files:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as weights:
                if name in weights.keys():  # noqa: SIM118 - the handle is no mapping
                    tensor: torch.Tensor = weights.get_tensor(name)
                    return tensor
    raise CheckpointIncomplete(f"The checkpoint has no {name} any more. Restart after putting it in place.", file=name)


def build_scheduler(class_name: str, config: Mapping[str, Any]) -> Any:
    """A diffusers scheduler by its class name."""
    return getattr(diffusers, class_name).from_config(dict(config))
