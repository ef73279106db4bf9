"""Trains the two autoencoders: single frames first, then 5, then 17; encodes clips to normalised latents."""

from __future__ import annotations

import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanRMS_norm, unpatchify
from safetensors.torch import load_file
from torch.nn import functional

from tools import demo_data as data
from tools import demo_steps as steps

KL = 2e-3  # of the mean over all latent numbers
CHANNELS = {8: 16, 16: 24}
# frames -> batch, learning rate, share of the time
STAGES = {8: ((1, 96, 1.5e-3, 0.25), (5, 16, 1e-3, 0.2), (17, 8, 1e-3, 0.55)),
          16: ((1, 96, 1.5e-3, 0.15), (5, 16, 1e-3, 0.2), (17, 8, 1e-3, 0.65))}  # fmt: skip
DATA = {"plain": 2200, "stripes": 600, "rings": 600, "stripes_in": 250, "rings_in": 250, "busy": 800}


def build(spatial: int) -> AutoencoderKLWan:
    """Both fold 2×2 pixels into channels and have 2.2's residual blocks: plain blocks learnt motion far more slowly.

    A latent frame's 2×2 patch has 64 (8×) or 96 numbers (16×), fewer than the transformers' 128 channels: noise that
    does not pass through them cannot be taken away. The real 16× autoencoder has 48 latent channels, 192 numbers.
    """
    torch.manual_seed(20 + spatial)
    shape: dict[str, Any] = {"base_dim": 32, "dim_mult": [1, 2, 2], "temperal_downsample": [True, True]}
    if spatial == 16:
        shape = {"base_dim": 16, "decoder_base_dim": 20, "dim_mult": [1, 2, 4, 4]}
    channels = CHANNELS[spatial]
    return AutoencoderKLWan(
        num_res_blocks=1, z_dim=channels, is_residual=True, patch_size=2, in_channels=12, out_channels=12,
        latents_mean=[0.0] * channels, latents_std=[1.0] * channels, scale_factor_spatial=spatial, **shape,
    )  # fmt: skip


def resume_from(vae: AutoencoderKLWan, folder: Path) -> None:
    """The saved weights wherever the shapes agree: another number of latent channels starts anew at its ends."""
    ours = vae.state_dict()
    theirs = load_file(folder / "diffusion_pytorch_model.safetensors")
    kept = {name: value.float() for name, value in theirs.items() if ours[name].shape == value.shape}
    vae.load_state_dict(kept, strict=False)
    print(f"resumed {len(kept)} of {len(ours)} tensors", flush=True)


def decode(vae: AutoencoderKLWan, z: torch.Tensor) -> torch.Tensor:
    """AutoencoderKLWan's own decode without its clamp, which has no gradient where it is needed most."""
    vae.clear_cache()
    hidden, parts = vae.post_quant_conv(z), []
    for index in range(z.shape[2]):
        vae._conv_idx = [0]
        first = {"first_chunk": True} if index == 0 else {}
        parts.append(
            vae.decoder(hidden[:, :, index : index + 1], feat_cache=vae._feat_map, feat_idx=vae._conv_idx, **first)
        )
    vae.clear_cache()
    out = torch.cat(parts, 2)
    return out if vae.config.patch_size is None else unpatchify(out, patch_size=vae.config.patch_size)


def _flat_convolution(self: WanCausalConv3d, x: torch.Tensor, cache_x: torch.Tensor | None = None) -> torch.Tensor:
    """The same numbers by a two-dimensional convolution over three frames' channels: several times faster here."""
    (deep, _, _), (stride, *strides), front = self.kernel_size, self.stride, self._padding[4]
    if cache_x is not None and front > 0:
        x = torch.cat([cache_x, x], 2)
        front -= cache_x.shape[2]
    weight = self.weight
    if front == 2 and x.shape[2] == 1 and deep == 3:
        weight, deep, front = weight[:, :, -1:], 1, 0  # nothing but zeros lies before a single frame
    rows = functional.pad(x, (0, 0, 0, 0, front, 0)).permute(0, 2, 3, 4, 1)
    count = (rows.shape[1] - deep) // stride + 1
    rows = torch.cat([rows[:, i : i + (count - 1) * stride + 1 : stride] for i in range(deep)], -1)
    batch, _, height, width, channels = rows.shape
    out = functional.conv2d(
        rows.reshape(batch * count, height, width, channels).permute(0, 3, 1, 2),
        weight.permute(0, 2, 1, 3, 4).flatten(1, 2).contiguous(memory_format=torch.channels_last),
        self.bias, strides, (self._padding[2], self._padding[0]),
    )  # fmt: skip
    return out.unflatten(0, (batch, count)).permute(0, 2, 1, 3, 4)


def _short_norm(self: WanRMS_norm, x: torch.Tensor) -> torch.Tensor:
    """The same norm in one kernel and in x's dtype."""
    with torch.autocast(x.device.type, enabled=False):
        last = x.movedim(1, -1)
        gamma = self.gamma.flatten().to(x.dtype)
        return functional.rms_norm(last, (last.shape[-1],), gamma, 1e-8).movedim(-1, 1)


def hasten(vae: AutoencoderKLWan) -> None:
    """Makes training fast; what is computed stays the same but for rounding."""
    for module in vae.modules():
        if isinstance(module, WanCausalConv3d):
            module.forward = types.MethodType(_flat_convolution, module)
        elif isinstance(module, WanRMS_norm):
            module.forward = types.MethodType(_short_norm, module)


def unit(frames: torch.Tensor) -> torch.Tensor:
    """uint8 (N, T, H, W, 3) as float32 in −1…1, (N, 3, T, H, W)."""
    return frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def train(spatial: int, folder: Path, out: Path, seconds: float, iterations: int, device: torch.device,
          resume: Path | None, shares: list[float] | None, scale: float = 1.0, decoder: bool = False,
          ) -> None:  # fmt: skip
    """Trains and saves one autoencoder with its latents' mean and deviation. `shares`: of the time, by stage.

    `decoder`: only the decoder learns, so that transformers trained on the resumed one's latents stay right.
    """
    began = time.monotonic()
    vae = build(spatial)
    if resume is not None:
        resume_from(vae, resume)
    vae.to(device)
    hasten(vae)
    frames = torch.cat([torch.from_numpy(data.load(folder, kind, max(2, int(count * scale))).frames.copy())
                        for kind, count in DATA.items()]).to(device)  # fmt: skip
    flat = frames.flatten(0, 1)
    print(f"vae{spatial}: {sum(p.numel() for p in vae.parameters()) / 1e6:.2f} M, {len(frames)} clips, "
          f"ready in {time.monotonic() - began:.0f} s", flush=True)  # fmt: skip
    learning = [*vae.post_quant_conv.parameters(), *vae.decoder.parameters()] if decoder else list(vae.parameters())
    optimizer = steps.Optimizer(learning, device, 0.998)
    figures: dict[str, Any] = {"parameters": sum(p.numel() for p in vae.parameters()), "stages": []}
    stages = STAGES[spatial]
    if shares is not None:
        stages = tuple((*stage[:3], share) for stage, share in zip(stages, shares, strict=True) if share)
    for length, batch, rate, share in stages:

        def step(length: int = length, batch: int = max(2, int(batch * min(1.0, scale * 4)))) -> torch.Tensor:
            clip = torch.randint(len(frames), (batch,), device=device) * frames.shape[1]
            first = torch.randint(frames.shape[1] - length + 1, (batch,), device=device)
            rows = (clip + first)[:, None] + torch.arange(length, device=device)
            target = unit(flat[rows])
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda", cache_enabled=False):
                with torch.set_grad_enabled(not decoder):
                    mean, log_variance = vae._encode(target).float().chunk(2, 1)
                log_variance = log_variance.clamp(-20, 10)
                z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
                error = decode(vae, z).float() - target
            kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
            loss = error.abs().mean() + 10 * (error**2).mean() + KL * kl
            optimizer.step(loss)
            return (error**2).mean().detach() / 4

        curve: list[dict[str, float]] = []
        whole = sum(stage[3] for stage in stages)
        left = seconds - (time.monotonic() - began)
        share_left = share / sum(stage[3] for stage in stages[stages.index((length, batch, rate, share)) :])
        graphed = steps.Graphed(step, device)
        done = steps.run(f"vae{spatial} {length} frames", graphed, optimizer, rate=rate,
                         seconds=left * share_left, iterations=max(2, int(iterations * share / whole)), curve=curve,
                         floor=0.2 if length < 17 else 0.01)  # fmt: skip
        figures["stages"].append({"frames": length, "batch": batch, "rate": rate, "steps": done, "curve": curve})
        del graphed
    optimizer.settle()
    vae.eval()
    if decoder and resume is not None:
        held = AutoencoderKLWan.load_config(resume)
        vae.register_to_config(latents_mean=held["latents_mean"], latents_std=held["latents_std"])
    else:
        z = moments(vae, frames[: max(2, int(2000 * scale))], device)
        vae.register_to_config(latents_mean=[round(v, 5) for v in z.mean(dim=(0, 2, 3, 4)).tolist()],
                               latents_std=[round(v, 5) for v in z.std(dim=(0, 2, 3, 4)).tolist()])  # fmt: skip
    vae.to(torch.bfloat16).save_pretrained(out)
    vae = AutoencoderKLWan.from_pretrained(out, torch_dtype=torch.float32).to(device).eval()
    for kind in ("test", "test_looks"):
        figures[f"psnr_{kind}"] = psnr(vae, data.load(folder, kind).frames, device)
    figures["seconds"] = round(time.monotonic() - began, 1)
    print(f"vae{spatial}: {figures['psnr_test']} plain, {figures['psnr_test_looks']} looks, std of the latents "
          f"{min(vae.config.latents_std):.2f}–{max(vae.config.latents_std):.2f}", flush=True)  # fmt: skip
    steps.write_log(out / "training.json", figures)


@torch.no_grad()
def moments(vae: AutoencoderKLWan, frames: torch.Tensor, device: torch.device, batch: int = 64) -> torch.Tensor:
    """The posterior's mean (N, z, T, h, w), float32."""
    found = []
    for part in frames.split(batch):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            found.append(vae._encode(unit(part.to(device))).float().chunk(2, 1)[0])
    return torch.cat(found)


@torch.no_grad()
def psnr(vae: AutoencoderKLWan, frames: np.ndarray, device: torch.device) -> dict[str, float]:
    """Mean over clips of the peak signal-to-noise ratio, float32, all frames and the first alone; in dB."""
    whole, first = [], []
    for start in range(0, len(frames), 16):
        part = torch.from_numpy(frames[start : start + 16].copy()).to(device)
        z = moments(vae, part, device)
        shown = ((vae.decode(z).sample / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 4, 1)
        error = (shown - part.float()) ** 2
        whole.append(-10 * torch.log10(error.mean(dim=(1, 2, 3, 4)) / 255**2))
        first.append(-10 * torch.log10(error[:, 0].mean(dim=(1, 2, 3)) / 255**2))
    return {"clip": round(torch.cat(whole).mean().item(), 2), "first_frame": round(torch.cat(first).mean().item(), 2),
            "worst_clip": round(torch.cat(whole).min().item(), 2)}  # fmt: skip


def encode(vae_folder: Path, spatial: int, folder: Path, kinds: list[str], out: Path, device: torch.device) -> None:
    """Writes normalised latents of clips, and of their first frames with grey behind, as the I2V rows see them.

    `kinds`: names, or name=count for the first so many clips.
    """
    vae = AutoencoderKLWan.from_pretrained(vae_folder, torch_dtype=torch.float32).to(device).eval()
    hasten(vae)
    mean = torch.tensor(vae.config.latents_mean, device=device).view(1, -1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std, device=device).view(1, -1, 1, 1, 1)
    out.mkdir(parents=True, exist_ok=True)
    for name in kinds:
        kind, _, count = name.partition("=")
        frames = torch.from_numpy(data.load(folder, kind, int(count) if count else None).frames.copy())
        held = {"clip": ((moments(vae, frames, device) - mean) / std).to(torch.bfloat16).cpu()}
        if spatial == 8:
            held["first"] = torch.cat([_first(vae, part, mean, std, device) for part in frames[:, :1].split(64)])
        torch.save(held, out / f"{kind}{spatial}.pt")
        print(f"encoded {kind} {spatial}: {tuple(held['clip'].shape)}", flush=True)


@torch.no_grad()
def _first(vae: AutoencoderKLWan, frame: torch.Tensor, mean: torch.Tensor, std: torch.Tensor,
           device: torch.device) -> torch.Tensor:  # fmt: skip
    start = unit(frame.to(device))
    clip = torch.cat([start, start.new_zeros(*start.shape[:2], 16, *start.shape[3:])], 2)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        z = vae._encode(clip).float().chunk(2, 1)[0]
    return ((z - mean) / std).to(torch.bfloat16).cpu()
