"""Model components: reads their files into modules, and reuses loaded ones whose files are the same."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
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
from wan_ui.checkpoints.modules import load_module, open_file, weight_bytes
from wan_ui.checkpoints.sources import KINDS
from wan_ui.checkpoints.tokenizers import tokenizer_of_file, tokenizer_of_folder
from wan_ui.engine.prefetch import Prefetcher
from wan_ui.engine.result import OnProgress, Progress
from wan_ui.errors import CheckpointIncomplete
from wan_ui.files import check_descriptors
from wan_ui.models import WanModel

log = logging.getLogger(__name__)

T = TypeVar("T")

PartLoader = Callable[[Component, torch.device, torch.dtype], Any]
"""Reads a component to a device in a dtype."""

TRANSFORMERS = ("transformer", "transformer_2")
MODULES = (*TRANSFORMERS, "vae", "text_encoder", "image_encoder")
REPORT_SECONDS = 0.25  # between two reports of a load

# Their progress bars would break up the log; loading is reported as Progress.
diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()


@dataclass(frozen=True)
class Components:
    """A model's loaded parts, and the files that each came from.

    `scheduler_config` and `boundary_ratio` (a share of the 1000 training timesteps) are the checkpoint's, or None.
    """

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
    """Where weights are loaded to, and their dtype; the components in `on_host` go to host memory instead.

    `packed`: a single file's fp8 weights stay fp8 in memory.
    """

    device: torch.device
    dtype: torch.dtype
    on_host: frozenset[str] = frozenset()
    packed: bool = False

    def loader(self, part: Component) -> PartLoader:
        """The function that reads a component."""
        return _LOADERS[part.name] if part.single is None else partial(_load_single_file, packed=self.packed)

    def device_of(self, name: str) -> torch.device:
        """The device that a component is loaded to."""
        return torch.device("cpu") if name in self.on_host else self.device


@dataclass(frozen=True)
class LoadStatistics:
    """What loads have read so far: the modules' `names` in order, their bytes, and how many parts were reused."""

    names: tuple[str, ...] = ()
    bytes_read: int = 0
    reused: int = 0

    @property
    def loads(self) -> int:
        """How many modules were read."""
        return len(self.names)

    def after(self, files: Mapping[str, Component], reused: Collection[str]) -> LoadStatistics:
        """The statistics after a load of the components in `files`, apart from those that were reused."""
        names = tuple(name for name in files if name in MODULES and name not in reused)
        size = sum(files[name].size for name in names)
        return LoadStatistics(self.names + names, self.bytes_read + size, self.reused + len(reused))


def model_dtype(device: torch.device) -> torch.dtype:
    """The dtype of weights and activations: bfloat16 on CUDA (and MPS), float32 on the CPU, in all recipes."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def load_components(
    files: Mapping[str, Component],
    target: Target,
    reused: Mapping[str, Any],
    has_host_room: Callable[[int], bool],
    on_progress: OnProgress,
) -> Components:
    """Every part of a model: those in `reused` as they are, the others read straight to their device.

    Files are prefetched where `has_host_room` says that the page cache can take that many bytes. Raises
    CheckpointIncomplete when a file is there but cannot be used.
    """
    parts: dict[str, Any] = dict(reused)
    # The small parts first: what is wrong with a config or tokenizer is found before gigabytes are read.
    missing = sorted((name for name in files if name not in parts), key=lambda name: name in MODULES)
    total = sum(files[name].size for name in missing)
    loaded = 0
    prefetch = [file for name in missing for file in files[name].files] if has_host_room(total) else []
    prefetcher = Prefetcher(prefetch)

    def report(name: str) -> None:
        """Reports the bytes that the prefetcher has read, or those of the loaded parts where they are more."""
        done = min(total, max(loaded, prefetcher.done))
        note, rate = name.replace("_", " "), prefetcher.rate
        on_progress(Progress("loading", bytes_done=done, bytes_total=total, note=note, bytes_per_second=rate))

    prefetcher.start()
    try:
        for name in missing:
            report(name)
            with _readable(files[name]):
                load = partial(target.loader(files[name]), files[name], target.device_of(name), target.dtype)
                parts[name] = load_with_progress(load, partial(report, name))
            loaded += files[name].size
            report(name)
    finally:
        prefetcher.stop()
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


def load_with_progress(load: Callable[[], T], report: Callable[[], None]) -> T:
    """What `load` returns, run on a thread of its own while `report` is called every quarter of a second.

    What `report` raises, such as Cancelled, is raised once the load has ended: a loader cannot be interrupted.
    """
    with ThreadPoolExecutor(1, "load") as executor:
        result = executor.submit(load)
        while not wait((result,), REPORT_SECONDS).done:
            report()
    try:
        return result.result()
    finally:
        del result  # it holds its error, whose traceback holds this frame, and with it whatever was loaded


def same_parts(checkpoints: Checkpoints, loaded: Components, wanted: Mapping[str, Component]) -> dict[str, Any]:
    """The loaded parts whose files have the same bytes as those wanted under the same name."""
    parts: dict[str, Any] = {
        **loaded.transformers,
        "vae": loaded.vae,
        "text_encoder": loaded.text_encoder,
        "tokenizer": loaded.tokenizer,
        "image_encoder": loaded.image_encoder,
        "image_processor": loaded.image_processor,
    }
    return {
        name: part
        for name, part in parts.items()
        if part is not None
        and name in wanted
        and name in loaded.files
        and checkpoints.same_files(loaded.files[name], wanted[name])
    }


@contextmanager
def _readable(component: Component) -> Iterator[None]:
    """Maps a loader's failure to CheckpointIncomplete with the component's name; out of memory passes through."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        check_descriptors(error)
        log.error("loading %s from %s failed", component.name, component.folder, exc_info=error)
        raise CheckpointIncomplete(
            f"The checkpoint's {component.name} cannot be loaded: its files do not fit together or are damaged. "
            "Copy or download them again.",
            component=component.name,
        ) from error


def _device_map(device: torch.device) -> dict[str, Any]:
    """The argument that makes a loader read straight to the device, without a copy of the weights in host memory."""
    return {"device_map": str(device)} if device.type == "cuda" else {}


def load_transformer(part: Component, device: torch.device, dtype: torch.dtype) -> WanTransformer3DModel:
    """A transformer from its folder, ready for inference on the device."""
    transformer = WanTransformer3DModel.from_pretrained(part.folder, torch_dtype=dtype, **_device_map(device))
    return _for_inference(transformer, device)


def _vae(part: Component, device: torch.device, dtype: torch.dtype) -> AutoencoderKLWan:
    return _for_inference(AutoencoderKLWan.from_pretrained(part.folder, torch_dtype=dtype), device)


def _text_encoder(part: Component, device: torch.device, dtype: torch.dtype) -> UMT5EncoderModel:
    return _for_inference(UMT5EncoderModel.from_pretrained(part.folder, dtype=dtype, **_device_map(device)), device)


def _image_encoder(part: Component, device: torch.device, dtype: torch.dtype) -> CLIPVisionModel:
    return _for_inference(CLIPVisionModel.from_pretrained(part.folder, dtype=dtype, **_device_map(device)), device)


def _load_single_file(part: Component, device: torch.device, dtype: torch.dtype, packed: bool) -> Any:
    """A component from a single checkpoint file: a tokenizer from its vocabulary, or a module with its weights."""
    single = part.single
    if single is None:
        raise AssertionError(f"{part.name} does not come from a single file")
    if part.name == "tokenizer":
        return tokenizer_of_file(single.header)
    file = open_file(single.header, single.kind, single.config)
    return load_module(file, single, device, dtype, packed)


def _image_processor(part: Component, device: torch.device, dtype: torch.dtype) -> CLIPImageProcessorPil:
    # By name: plain CLIPImageProcessor computes other numbers where torchvision is installed.
    return CLIPImageProcessorPil.from_pretrained(part.folder)


def _tokenizer(part: Component, device: torch.device, dtype: torch.dtype) -> PreTrainedTokenizerBase:
    return tokenizer_of_folder(part.folder, part.name)


def _config(part: Component, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(part.files[0].read_bytes())
    return config


def _for_inference(module: Any, device: torch.device) -> Any:
    """The module in evaluation mode, without gradients, on the device."""
    return module.eval().requires_grad_(False).to(device)


_LOADERS: Mapping[str, PartLoader] = {
    "transformer": load_transformer,
    "transformer_2": load_transformer,
    "vae": _vae,
    "text_encoder": _text_encoder,
    "image_encoder": _image_encoder,
    "image_processor": _image_processor,
    "tokenizer": _tokenizer,
    "scheduler": _config,
    "model_index": _config,
}


def component_bytes(model: WanModel, component: Component, dtype: torch.dtype, packed: bool) -> int:
    """Bytes that a component's weights take, once its config, names and shapes were found to be the model's.

    `packed`: with a single file's fp8 weights kept as they are. Raises CheckpointInvalid for another model's weights,
    CheckpointIncomplete for files that are not whole.
    """
    if component.single is None:
        shown = f"{component.name}/config.json"
        check_config(model, component.name, read_config(component.folder / "config.json", shown), shown)
    return weight_bytes(component, KINDS[component.name], dtype, packed)


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
    raise CheckpointIncomplete(f"The checkpoint has no {name} any more. Put it in place and restart.", file=name)


def build_scheduler(class_name: str, config: Mapping[str, Any]) -> Any:
    """A diffusers scheduler by its class name."""
    return getattr(diffusers, class_name).from_config(dict(config))
