"""Engine: requests in, clips out, from Python, without a server."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from wan_ui.access import LOCAL_ACCESS
from wan_ui.checkpoints.catalog import ANSWERS, Answers
from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.checkpoints.sources import CheckpointSources, base_of
from wan_ui.config import CompileMode, MemoryMode
from wan_ui.engine.budget import Fp8Weights
from wan_ui.engine.compile import BlockCompiler, keep_cache_in
from wan_ui.engine.core import Core
from wan_ui.engine.fp8 import check_supported
from wan_ui.engine.live_picture import LivePictures, PictureSettings
from wan_ui.engine.loader import Loader
from wan_ui.engine.memory import MemoryPolicy, check_device, memory_bytes, out_of_memory_mapped, release
from wan_ui.engine.metadata import device_name, versions
from wan_ui.engine.parallel import Group, Membership
from wan_ui.engine.result import Clip, OnProgress, Progress, ignore_progress
from wan_ui.engine.split import GroupPlace
from wan_ui.errors import DeviceLost, DeviceUnavailable, OutOfMemory
from wan_ui.intake import ResolvedRequest, prepare, resolve_downloaded
from wan_ui.lora.library import COMFY_FOLDER, Library
from wan_ui.lora.remote import RemoteFiles, shown_name
from wan_ui.media.fetch import fetch
from wan_ui.media.image import ImageStore
from wan_ui.models import Speedup
from wan_ui.request import Generation, find_model

LARGEST_IMAGE = 50 << 20  # bytes of a control image that is downloaded
FETCH_SECONDS = 20.0
LATENT_MAPS = "latent_maps"  # folder of the data folder with the maps for live pictures


class Engine:
    """One loaded model at a time, from Python: `Engine(models_dir=…).generate(request)`.

    `models_dir` None takes checkpoints from the Hugging Face cache or hub. `lora_dir` is the root of the request's
    `loras[].path`. `device` None is CUDA if there is one, else the CPU. `memory` "auto" chooses by free memory.
    `data_dir` keeps control images, uploads and compiled kernels; None keeps them for the life of the object.
    `allow_url_hosts` are private hosts that URLs in a request may name. A server passes its own `library`, so that
    both know its uploads and downloads. `compile` "auto" is "exact" on CUDA and "off" elsewhere.
    `group` are the processes, one for each GPU, that render every video together: each of them makes the same calls.
    `live_pictures` says when reports of progress carry live pictures, whose maps are kept in `data_dir`; None: never.

    Raises DeviceUnavailable. Not thread-safe.
    """

    def __init__(
        self,
        models_dir: str | Path | None = None,
        lora_dir: str | Path = "./loras",
        device: str | None = None,
        memory: MemoryMode = "auto",
        data_dir: str | Path | None = None,
        allow_url_hosts: Sequence[str] = (),
        library: Library | None = None,
        compile: CompileMode = "auto",
        comfy_dir: str | Path | None = None,
        configs_dir: str | Path | None = None,
        fp8_weights: Fp8Weights = "auto",
        group: Group | None = None,
        live_pictures: PictureSettings | None = None,
    ) -> None:
        self.device = choose_device(device)
        self._scratch = tempfile.TemporaryDirectory(prefix="wan-ui-") if data_dir is None else None
        root = Path(self._scratch.name) if self._scratch is not None else Path(str(data_dir))
        uploads = root / "uploads"
        models = Path(models_dir) if models_dir is not None else None
        self.checkpoints = CheckpointSources(
            Checkpoints(models),
            comfy_dir=Path(comfy_dir) if comfy_dir is not None else None,
            models_dir=models,
            configs_dir=Path(configs_dir) if configs_dir is not None else None,
            answers=Answers(root / ANSWERS),
        )
        remote = RemoteFiles(uploads, allow_hosts=allow_url_hosts)
        further = {COMFY_FOLDER: self.checkpoints.catalog.lora_folders}
        self.library = library or Library(Path(lora_dir), uploads, remote, further=further)
        self.images = ImageStore(
            root / "images",
            partial(fetch, max_bytes=LARGEST_IMAGE, seconds=FETCH_SECONDS, allow_hosts=tuple(allow_url_hosts)),
        )
        if data_dir is not None:
            keep_cache_in(root / "compiled")
        compiler = BlockCompiler(compile, self.device)
        digest = self.checkpoints.folders.digest
        pictures = None if live_pictures is None else LivePictures(root / LATENT_MAPS, digest, live_pictures)
        policy = MemoryPolicy(memory, self.device)
        self._membership = Membership(group)
        self.loader = Loader(self.checkpoints, policy, compiler, fp8_weights, self._membership, pictures)
        self.core = Core(self.loader.load)

    def generate(self, request: Mapping[str, Any], on_progress: OnProgress | None = None) -> list[Clip]:
        """One clip per prompt of the request, in order. LoRAs given as a URL are downloaded first.

        A comparison gives one clip per cell, page by page and row by row; cells that are the same video share one clip.
        Raises what is wrong with the request (RequestError) or with this machine (HostError).
        """
        report, configs = on_progress or ignore_progress, self.checkpoints.transformer_config
        prepared = prepare(request, self.library, self.images, configs, LOCAL_ACCESS)
        for generation in prepared.generations:
            self.check_speedup(generation.speedup)
        resolved: ResolvedRequest = prepared
        for source in prepared.awaited:
            self.library.fetch(source, partial(_report_download, report, f"Downloading {shown_name(source)}"))
        if prepared.awaited:
            resolved = resolve_downloaded(prepared.request, prepared.generations, self.library, configs)
        clips = [self.render(generation, report) for generation in resolved.generations]
        return [clips[cell.generation] for cell in resolved.cells] if resolved.cells else clips

    def render(self, generation: Generation, on_progress: OnProgress) -> Clip:
        """One clip of a resolved generation. Its LoRA files are located again, checked against their SHA-256."""
        self.check_speedup(generation.speedup)
        files = {use.path: self.library.locate(use.path, LOCAL_ACCESS, use.sha256) for use in generation.loras}
        hashes = [name for name in (generation.image, generation.image_last) if name is not None]
        images = [self.images.open(name, LOCAL_ACCESS) for name in hashes]
        try:
            with out_of_memory_mapped():
                return self.core.generate(generation, files, images, on_progress)
        except OutOfMemory:
            self.core.close()  # for one that was raised as another error inside the core
            raise

    def join(self, place: GroupPlace) -> None:
        """Render together with other processes from now on, once all have joined: each makes the same calls.

        Only rank 0 gets the frames; the clips of the others have none.
        """
        self._membership.join(place, self.device)

    def leave(self) -> None:
        """Render alone from now on. Nothing is loaded again."""
        self._membership.leave()

    def check_speedup(self, speedup: Speedup) -> None:
        """Raises SpeedupNotSupported for a speed-up that this device cannot do."""
        check_supported(speedup, self.device)

    def prefetch(self, generation: Generation) -> None:
        """Reads the files of the next generation's model into the page cache while another one is rendered."""
        self.loader.prefetch(find_model(generation.model), base_of(generation.base))

    def check(self) -> None:
        """After a failure: returns unused memory to the device, and checks that the device still computes.

        Raises DeviceLost when this process cannot use it any more.
        """
        try:
            release(self.device)
            check_device(self.device)
        except RuntimeError as error:
            raise device_lost(error) from error

    def unload(self) -> None:
        """Frees the loaded model and returns its memory to the device; the next clip loads its own again."""
        self.loader.stop_prefetch()
        self.core.close()
        release(self.device)

    @property
    def loaded_model(self) -> str | None:
        """The id of the model that is loaded."""
        state = self.core.state
        return None if state is None else state.model

    def memory(self) -> tuple[int, int]:
        """Bytes of memory that no model uses, and all of it: the GPU's, or the machine's where the CPU renders."""
        return memory_bytes(self.device)

    def close(self) -> None:
        """Frees the model, and deletes what was kept for the life of the object."""
        self.loader.stop_prefetch()
        self.core.close()
        if self._scratch is not None:
            self._scratch.cleanup()

    @property
    def render_device(self) -> str | None:
        """The device that a clip's metadata names."""
        return self.device_name

    @property
    def device_name(self) -> str:
        """The GPU's name, or the kind of device."""
        return device_name(self.device)

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions of what computes a clip, by package."""
        return versions()


def device_lost(error: RuntimeError) -> DeviceLost:
    """The error for a dead device, with the first line of torch's reason."""
    reason = str(error).partition("\n")[0].strip().rstrip(".")
    return DeviceLost(
        f"The GPU failed while this ran and cannot be used until the server has been restarted ({reason}). "
        "Retry then, with other values if it happens again."
    )


def choose_device(name: str | None) -> torch.device:
    """The device to run on. Raises DeviceUnavailable for one that this machine, or this torch, does not have."""
    wanted = name if name is not None else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(1, device=wanted).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DeviceUnavailable(
            f"The device {wanted!r} cannot be used here. Choose cpu, or cuda on a machine with a CUDA GPU and a CUDA "
            "build of torch."
        ) from error


def _report_download(on_progress: OnProgress, note: str, done: int, total: int) -> None:
    on_progress(Progress("downloading", bytes_done=done, bytes_total=total, note=note))
