"""A small moving picture of the video being denoised: a linear map from latents to RGB, fitted to the VAE itself.

Every denoising step gives an estimate of the clean latents x₀. Decoding it costs seconds; a linear map of its channels
to RGB, at latent resolution, costs milliseconds and shows what is coming. For the normalised latents z of one position
(C channels) the map is

    rgb = [z, 1] · A,   A of shape (C + 1, 3), rgb in −1…1

and A is the ridge regression of the VAE's own decoded pixels, averaged over the area (and the 4 frames) that a latent
position stands for, on the latents of synthetic clips. A causal VAE encodes its first frame alone and every 4 further
frames together, so the first latent frame gets a map of its own.

The fit needs about 1 s of a GPU or 5 s of a CPU, once per VAE: `LivePictures` keeps it in a file named by the VAE's
content. Four times as many clips predict held-out ones by less than 0.4 dB better.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from PIL import Image

from wan_ui.engine.conditioning import denormalize, normalize
from wan_ui.models import TEMPORAL_COMPRESSION

RIDGE = 1e-3  # of the mean square of the latents, which are about 1 after normalisation
IMAGES = 8  # single frames for the map of the first latent frame
CLIPS = 3  # clips for the map of the later latent frames
CLIP_FRAMES = 9  # frames a clip: one alone and two groups of 4
SIDE = 128  # pixels of a synthetic frame
FRAMES_SHOWN = 5  # latent frames in a picture, evenly spaced
FRAME_MILLISECONDS = 250
QUALITY = 70  # of the animated WebP
MOST_BYTES = 30_000  # of the animated WebP
EVERY = 0.5  # seconds, at least, between two pictures
SHARE = 0.01  # of the denoising time, at most, for making pictures
FIRST_COST = 0.01  # seconds that a picture is taken to need before one was made
WORTH_A_FIT = 20.0  # seconds of denoising; a shorter run fits no map for its pictures


@dataclass(frozen=True)
class LatentToRgb:
    """The fitted maps, float32 of shape (C + 1, 3): for the first latent frame and for the later ones."""

    first: torch.Tensor
    later: torch.Tensor

    def frames(self, latents: torch.Tensor, shown: int = FRAMES_SHOWN) -> torch.Tensor:
        """Up to `shown` spaced latent frames of (1, C, T, h, w) as RGB bytes (shown, h, w, 3), same device."""
        indices = spaced(latents.shape[2], shown)
        chosen = latents[0, :, indices].float()  # (C, shown, h, w)
        pixels = torch.einsum("cthw,cr->thwr", chosen, self.later[:-1].to(latents.device)) + self.later[-1].to(
            latents.device
        )
        first = torch.einsum("chw,cr->hwr", chosen[:, 0], self.first[:-1].to(latents.device))
        pixels[0] = first + self.first[-1].to(latents.device)
        return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def spaced(count: int, shown: int) -> list[int]:
    """`shown` indices of 0…count − 1, evenly spaced, the first and the last among them."""
    shown = min(shown, count)
    return [round(index * (count - 1) / max(1, shown - 1)) for index in range(shown)]


def synthetic_clips(count: int, frames: int, seed: int) -> torch.Tensor:
    """Smooth colour fields with moving rectangles, (count, 3, frames, SIDE, SIDE), float32 in −1…1."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator) * 2 - 1
    fields = F.interpolate(coarse, (SIDE, SIDE), mode="bicubic", align_corners=False).clamp(-1, 1)
    clips = fields.unsqueeze(2).repeat(1, 1, frames, 1, 1)
    for clip in clips:
        for _ in range(3):
            colour = torch.rand(3, 1, 1, generator=generator) * 2 - 1
            place, size = torch.rand(2, generator=generator) * 0.7, torch.rand(2, generator=generator) * 0.25 + 0.1
            speed = (torch.rand(2, generator=generator) - 0.5) * 0.3  # of the side, over the whole clip
            for frame in range(frames):
                at = place + speed * frame / max(1, frames - 1)
                top, left = ((at * SIDE).long().clamp(0, SIDE - 1)).tolist()
                height, width = (size * SIDE).long().tolist()
                clip[:, frame, top : top + height, left : left + width] = colour
    return clips


@torch.no_grad()
def fit(vae: AutoencoderKLWan) -> LatentToRgb:
    """The maps of a VAE, on the CPU. The VAE must be on its device and is left unchanged."""
    first = _solve(_pairs(vae, synthetic_clips(IMAGES, 1, seed=1), skip=0))
    later = _solve(_pairs(vae, synthetic_clips(CLIPS, CLIP_FRAMES, seed=2), skip=1))
    return LatentToRgb(first, later)


def _pairs(vae: AutoencoderKLWan, clips: torch.Tensor, skip: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Normalised latents (positions, C) and the mean decoded RGB of each (positions, 3), clip by clip.

    The first `skip` latent frames are left out.
    """
    for clip in torch.split(clips, 1):
        latents = normalize(vae.encode(clip.to(vae.device, vae.dtype)).latent_dist.mode(), vae)
        pixels = vae.decode(denormalize(latents, vae), return_dict=False)[0].float()
        small = F.interpolate(pixels[0].transpose(0, 1), latents.shape[3:], mode="area")  # (frames, 3, h, w)
        starts = (0, *range(1, len(small), TEMPORAL_COMPRESSION))  # of the frames of each latent frame
        means = torch.stack([small[a:b].mean(dim=0) for a, b in pairwise((*starts, len(small)))])  # (T, 3, h, w)
        channels = latents.shape[1]
        yield (
            latents[0, :, skip:].float().permute(1, 2, 3, 0).reshape(-1, channels).cpu(),
            means[skip:].permute(0, 2, 3, 1).reshape(-1, 3).clamp(-1, 1).cpu(),
        )


def _solve(pairs: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Ridge regression: A = (XᵀX + λnI)⁻¹ XᵀY with X = [z, 1], in float64; the constant is not penalised."""
    left: torch.Tensor | None = None
    right: torch.Tensor | None = None
    rows = 0
    for latents, pixels in pairs:
        design = torch.cat([latents, torch.ones(len(latents), 1)], dim=1).double()
        rows += len(design)
        left = design.T @ design if left is None else left + design.T @ design
        right = design.T @ pixels.double() if right is None else right + design.T @ pixels.double()
    if left is None or right is None:
        raise ValueError("a fit needs at least one clip")
    penalty = torch.full((len(left),), RIDGE * rows, dtype=torch.float64)
    penalty[-1] = 0
    solution: torch.Tensor = torch.linalg.solve(left + torch.diag(penalty), right).float()
    return solution


@dataclass(frozen=True)
class PictureSettings:
    """When live pictures are made, and the folder `shipped` with maps that were fitted before.

    At most one in `every` seconds, and all of a run within `share` of its denoising time.
    """

    shipped: Path | None = None
    every: float = EVERY
    share: float = SHARE


class LivePictures:
    """The fitted maps of VAEs by the SHA-256 of their weights, kept in `folder`; None keeps them in memory alone.

    `digest` gives the SHA-256 of a file.
    """

    def __init__(
        self, folder: Path | None, digest: Callable[[Path], str], settings: PictureSettings | None = None
    ) -> None:
        self.settings = settings or PictureSettings()
        self._folder = folder
        self._digest = digest
        self._folders = [path for path in (folder, self.settings.shipped) if path is not None]
        self._known: dict[str, LatentToRgb] = {}

    def known(self, files: Sequence[Path]) -> LatentToRgb | None:
        """The maps of the VAE in these files if it was fitted before, here or in an earlier process."""
        digest = self._name(files)
        for folder in self._folders:
            path = folder / f"{digest}.npz"
            if digest not in self._known and path.is_file():
                with np.load(path) as stored:
                    self._known[digest] = LatentToRgb(
                        torch.from_numpy(stored["first"]), torch.from_numpy(stored["later"])
                    )
        return self._known.get(digest)

    def maps(self, files: Sequence[Path], vae: AutoencoderKLWan) -> LatentToRgb:
        """The maps of the VAE that was read from these files, fitted at the first call.

        Raises OSError where they cannot be stored.
        """
        known = self.known(files)
        if known is not None:
            return known
        digest = self._name(files)
        fitted = self._known[digest] = fit(vae)
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            part = self._folder / f"{digest}.{os.getpid()}.part.npz"
            np.savez(part, first=fitted.first.numpy(), later=fitted.later.numpy())
            part.replace(self._folder / f"{digest}.npz")
        return fitted

    def _name(self, files: Sequence[Path]) -> str:
        """The SHA-256 of the weights: of the one file that holds them, else of the digests of all."""
        digests = [self._digest(file) for file in files if file.suffix != ".json"]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


class PictureMaker:
    """Makes the pictures of one run of `steps` steps, `first` of which an earlier run has done.

    `settings` limit their time by what the denoising will have taken at the present speed. `maps` gives the VAE's
    maps, or None to make no picture; it is called with the seconds that the denoising will take, and its own time
    counts neither way.
    """

    def __init__(
        self,
        maps: Callable[[float], LatentToRgb | None],
        settings: PictureSettings,
        steps: int,
        first: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._maps = maps
        self._settings = settings
        self._steps, self._first = steps, first
        self._clock = clock
        self._began = clock()
        self._latest: float | None = None
        self._spent, self._cost = 0.0, FIRST_COST
        self._found: LatentToRgb | None = None
        self.paused = 0.0  # seconds that went into fitting a map

    def picture(self, step: int, estimate: Callable[[], torch.Tensor]) -> bytes | None:
        """A picture after `step` finished steps as an animated WebP, or None if none is due.

        `estimate` computes the estimated clean latents, (1, C, T, h, w).
        """
        start = self._clock()
        if not self._is_due(step, start):
            return None
        if self._found is None:  # the VAE's files are looked at until the maps are there, and not for each picture
            self._found = self._maps(self._projected(step, start))
        fitted = self._clock()
        self.paused += fitted - start
        if self._found is None:
            return None
        webp = as_webp(self._found.frames(estimate()).cpu().numpy())
        self._latest = self._clock()
        self._cost = self._latest - fitted
        self._spent += self._cost
        return webp

    def _is_due(self, step: int, now: float) -> bool:
        if step >= self._steps or (self._latest is not None and now - self._latest < self._settings.every):
            return False
        return self._spent + self._cost <= self._settings.share * self._projected(step, now)

    def _projected(self, step: int, now: float) -> float:
        """The seconds that all steps will have taken, by those so far."""
        done = max(1, step - self._first)
        return (now - self._began - self.paused) / done * (self._steps - self._first)


def as_webp(frames: npt.NDArray[np.uint8]) -> bytes:
    """RGB frames (count, h, w, 3) as a looping animated WebP of at most `MOST_BYTES`: too large a one is halved."""
    while True:
        images = [Image.fromarray(frame) for frame in frames]
        buffer = io.BytesIO()
        images[0].save(
            buffer,
            "WEBP",
            save_all=True,
            append_images=images[1:],
            duration=FRAME_MILLISECONDS,
            loop=0,
            quality=QUALITY,
            method=0,
        )
        if buffer.tell() <= MOST_BYTES or min(frames.shape[1:3]) < 2:
            return buffer.getvalue()
        frames = frames[:, ::2, ::2]
