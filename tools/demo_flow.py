"""Trains the transformers by flow matching, as Wan does, and the LoRAs on top of them; it samples what they learnt."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from safetensors.torch import save_file

from tools import demo_data as data
from tools import demo_scenes as scenes
from tools import demo_steps as steps
from tools import demo_vae
from wan_ui.models import NUM_TRAIN_TIMESTEPS

HEADS, HEAD_SIZE, FFN_SIZE, BLOCKS = 2, 64, 512, 6
HIDDEN = HEADS * HEAD_SIZE
SHIFT = 3.0  # of the training timesteps
LIGHT = ("gray", "sand")  # backgrounds with little contrast to some colours
UNSAID = 0.1  # how often the caption is left out, for guidance
RATE = 2e-3
TRIGGER_IN_BASE = 0.1  # the base models hear the trigger word and learn that it means nothing


@dataclass(frozen=True)
class Kind:
    """A transformer of the demo. Those of a 2.2 pair are equal; their LoRAs are not."""

    spatial: int
    conditioning: str  # "text", "first_latent", "latent_channels", "clip_and_latent_channels"
    parent: str | None = None


KINDS: Mapping[str, Kind] = {
    "t2v": Kind(8, "text"),
    "i2v21": Kind(8, "clip_and_latent_channels", "t2v"),
    "i2v22": Kind(8, "latent_channels", "t2v"),
    "ti2v5b": Kind(16, "first_latent"),
}
EVERY = (0.0, 1.0)
SCALES = (0.6, 1.0)  # of a LoRA while it learns, so that half of one shows something
SLOTS = {"high": (0.8, 1.0), "low": (0.0, 0.93)}  # noise levels of a pair's halves, a little over the boundary each


class TextProcessor(WanAttnProcessor):
    """Cross-attention over 32 text rows that weighs the zero rows as if there were 512; `bias` (B, 1, 1, 32)."""

    def __init__(self, bias: torch.Tensor) -> None:
        super().__init__()
        self.bias = bias

    def __call__(self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None,
                 attention_mask: torch.Tensor | None = None, rotary_emb: Any = None) -> torch.Tensor:  # fmt: skip
        text = encoder_hidden_states[:, -data.TEXT_TOKENS :]
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        key = attn.norm_k(attn.to_k(text)).unflatten(2, (attn.heads, -1))
        value = attn.to_v(text).unflatten(2, (attn.heads, -1))
        bias = self.bias.to(query.dtype).expand(-1, attn.heads, query.shape[1], -1)
        out = torch.nn.functional.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2).to(query.dtype), value.transpose(1, 2).to(query.dtype), bias
        ).transpose(1, 2).flatten(2, 3)  # fmt: skip
        if attn.add_k_proj is not None:
            image = encoder_hidden_states[:, : -data.TEXT_TOKENS]
            key = attn.norm_added_k(attn.add_k_proj(image)).unflatten(2, (attn.heads, -1))
            value = attn.add_v_proj(image).unflatten(2, (attn.heads, -1))
            out = out + dispatch_attention_fn(query, key.to(query.dtype), value.to(query.dtype)).flatten(2, 3)
        return attn.to_out[0](out.to(hidden_states.dtype))


def build(kind: Kind) -> WanTransformer3DModel:
    latent = demo_vae.CHANNELS[kind.spatial]
    image = kind.conditioning == "clip_and_latent_channels"
    torch.manual_seed(31)
    return WanTransformer3DModel(
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_SIZE,
        in_channels=2 * latent + 4 if kind.conditioning.endswith("latent_channels") else latent,
        out_channels=latent,
        text_dim=data.TEXT_WIDTH,
        freq_dim=256,
        ffn_dim=FFN_SIZE,
        num_layers=BLOCKS,
        image_dim=data.IMAGE_WIDTH if image else None,
        added_kv_proj_dim=HIDDEN if image else None,
    )


def inherit(model: WanTransformer3DModel, parent: Path) -> None:
    """A parent's weights wherever a layer has the same name; new input channels start at zero."""
    theirs = WanTransformer3DModel.from_pretrained(parent, torch_dtype=torch.float32).state_dict()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name == "patch_embedding.weight":
                tensor.zero_()
                tensor[:, : theirs[name].shape[1]] = theirs[name]
            elif name in theirs:
                tensor.copy_(theirs[name])
            elif name.endswith("add_v_proj.weight"):
                tensor.mul_(0.1)


@dataclass
class Set:
    """Clips of one kind on the device: latents (N, C, 5, h, w), captions, and what a first frame gives."""

    clip: torch.Tensor
    first: torch.Tensor | None
    image: torch.Tensor | None
    text: torch.Tensor
    bias: torch.Tensor
    scenes: list[scenes.Scene]

    @classmethod
    def load(cls, kind: str, spatial: int, trigger: float, arguments: argparse.Namespace, device: torch.device,
             image: bool = False) -> Set:  # fmt: skip
        held = torch.load(arguments.latents / f"{kind}{spatial}.pt", map_location=device)
        clips = data.load(arguments.clips, kind, len(held["clip"]))
        text, lengths = data.encode_texts(data.captions(kind, clips.scenes, trigger), device)
        pictures = data.encode_images(torch.from_numpy(clips.frames[:, 0].copy()), device) if image else None
        return cls(held["clip"], held.get("first"), pictures, text, data.text_bias(lengths), clips.scenes)


class Flow:
    """One transformer with what it needs to compute its loss on random clips."""

    def __init__(self, kind: Kind, model: WanTransformer3DModel, batch: int, device: torch.device,
                 sigmas: tuple[float, float] = EVERY) -> None:  # fmt: skip
        self.kind, self.model, self.batch, self.device, self.sigmas = kind, model, batch, device, sigmas
        self.bias = torch.zeros(batch, 1, 1, data.TEXT_TOKENS, device=device)
        self.processor = TextProcessor(self.bias)
        for block in model.blocks:
            block.attn2.set_processor(self.processor)
        text, length = data.encode_texts([""], device)
        self.unsaid, self.unsaid_bias = text, data.text_bias(length)

    def forward(self, latents: torch.Tensor, sigma: torch.Tensor, text: torch.Tensor, first: torch.Tensor | None,
                image: torch.Tensor | None, given: torch.Tensor | None) -> torch.Tensor:  # fmt: skip
        """Velocity. `sigma` (B,); `given` (B,) is 1 where the first latent frame is given (5B), else 0."""
        if first is not None and self.kind.conditioning.endswith("latent_channels"):
            mask = torch.zeros_like(latents[:, :4])
            mask[:, :, 0] = 1
            latents = torch.cat([latents, mask, first.to(latents.dtype)], 1)
        timestep = sigma * NUM_TRAIN_TIMESTEPS
        if given is not None:
            count, height, width = latents.shape[2], latents.shape[3] // 2, latents.shape[4] // 2
            frame = (torch.arange(count, device=latents.device) == 0).float()
            each = timestep[:, None] * (1 - given[:, None] * frame)
            timestep = each[:, :, None].expand(-1, -1, height * width).flatten(1)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda", cache_enabled=False):
            return self.model(latents, timestep, text, image, return_dict=False)[0].float()

    def loss(self, clips: Set, rows: torch.Tensor, given: torch.Tensor | None, taught: int = 0,
             teacher: Callable[[Callable[[], torch.Tensor]], torch.Tensor] | None = None) -> torch.Tensor:  # fmt: skip
        """Flow matching on these clips: a random caption, a random noise level each.

        The target is noise − latent, but what `teacher` makes of the same forward for the first `taught` rows.
        """
        count = len(rows)
        x = clips.clip[rows].float()
        said = rows * data.CAPTIONS + torch.randint(data.CAPTIONS, (count,), device=self.device)
        empty = torch.rand(count, device=self.device) < UNSAID
        text = torch.where(empty[:, None, None], self.unsaid, clips.text[said]).float()
        self.bias.copy_(torch.where(empty[:, None, None, None], self.unsaid_bias, clips.bias[said]))
        low, high = (s / (SHIFT - (SHIFT - 1) * s) for s in self.sigmas)
        even = (torch.arange(count, device=self.device) + torch.rand(count, device=self.device)) / count
        u = low + (high - low) * even[torch.randperm(count, device=self.device)]
        sigma = (SHIFT * u / (1 + (SHIFT - 1) * u)).clamp(1e-3, 1)
        noise = torch.randn_like(x)
        at = sigma[:, None, None, None, None]
        noisy, target = (1 - at) * x + at * noise, noise - x
        weight = torch.ones_like(x[:, :1, :, :1, :1])
        if given is not None:
            keep = given[:, None, None, None, None]
            noisy = torch.cat([keep * x[:, :, :1] + (1 - keep) * noisy[:, :, :1], noisy[:, :, 1:]], 2)
            weight = torch.cat([1 - keep, weight[:, :, 1:]], 2)
        first = clips.first[rows] if self.kind.conditioning.endswith("latent_channels") else None
        image = clips.image[rows].float() if self.kind.conditioning == "clip_and_latent_channels" else None
        if teacher is not None:
            prediction = teacher(lambda: self.forward(noisy, sigma, text, first, image, given))
            target = torch.cat([prediction[:taught], target[taught:]])
        error = (self.forward(noisy, sigma, text, first, image, given) - target) ** 2 * weight
        return error.mean()

    def draw(self, clips: Set, batch: int | None = None) -> torch.Tensor:
        """Random rows of a set, all alike."""
        return torch.randint(len(clips.clip), (batch or self.batch,), device=self.device)


def often(scenes: Sequence[scenes.Scene], device: torch.device) -> torch.Tensor:
    """Row numbers to draw from: stars twice, and what stands on a light background twice; both are hard to tell."""
    return torch.tensor(
        [
            row
            for row, scene in enumerate(scenes)
            for _ in range((1 + (scene.shape == "star")) * (1 + (scene.background in LIGHT)))
        ],
        device=device,
    )


def half_given(batch: int, device: torch.device) -> torch.Tensor:
    """1 for the first half, 0 for the second."""
    return (torch.arange(batch, device=device) < batch // 2).float()


@torch.no_grad()
def sample(
    flows: Callable[[float], Flow], texts: Sequence[str], latents: torch.Tensor, first: torch.Tensor | None,
    image: torch.Tensor | None, given: torch.Tensor | None, shift: float, count: int = 25, scale: float = 4.0,
) -> torch.Tensor:  # fmt: skip
    """Euler with guidance over a whole batch; `latents` is the noise, its first latent frame the given one."""
    flow = flows(1.0)
    device = latents.device
    text, length = data.encode_texts(list(texts), device)
    bias = data.text_bias(length)
    empty, empty_bias = (t.expand(len(texts), *t.shape[1:]) for t in (flow.unsaid, flow.unsaid_bias))
    u = torch.linspace(1, 0, count + 1).tolist()
    sigmas = [shift * v / (1 + (shift - 1) * v) for v in u]
    start = latents[:, :, :1].clone()
    for now, then in itertools.pairwise(sigmas):
        flow = flows(now)
        sigma = torch.full((len(texts),), now, device=device)
        outs = []
        for words, weights in ((text, bias), (empty, empty_bias)):
            flow.processor.bias = weights
            outs.append(flow.forward(latents, sigma, words.float(), first, image, given))
        latents = latents + (then - now) * (outs[1] + scale * (outs[0] - outs[1]))
        if given is not None:
            keep = given[:, None, None, None, None]
            latents = torch.cat([keep * start + (1 - keep) * latents[:, :, :1], latents[:, :, 1:]], 2)
    for flow in {id(f): f for f in (flows(1.0), flows(0.1))}.values():
        flow.processor.bias = flow.bias
    return latents


@torch.no_grad()
def frames_of(vae: AutoencoderKLWan, latents: torch.Tensor) -> np.ndarray:
    mean = torch.tensor(vae.config.latents_mean, device=latents.device).view(1, -1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std, device=latents.device).view(1, -1, 1, 1, 1)
    shown = torch.cat([vae.decode(part * std + mean).sample for part in latents.split(32)])
    return ((shown / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 4, 1).cpu().numpy()


def score(frames: np.ndarray, scenes: Sequence[scenes.Scene], starts: np.ndarray | None = None) -> dict[str, Any]:
    """Shares of clips that show what their scene says; the new look's; PSNR of the first frame where one was given."""
    with ProcessPoolExecutor(8) as pool:
        readings = list(pool.map(scenes.read, list(frames), chunksize=8))
    pairs = list(zip(readings, scenes, strict=True))
    found: dict[str, Any] = {
        name: round(float(np.mean([getattr(r, name) == getattr(s, name) for r, s in pairs])), 3)
        for name in ("colour", "shape", "motion", "background")
    }
    for look in ("stripes", "rings"):
        found[look] = round(float(np.mean([reading.look == look for reading in readings])), 3)
    found["strength"] = round(float(np.mean([reading.strength for reading in readings])), 3)
    if starts is not None:
        error = ((frames[:, 0].astype(np.float32) - starts) ** 2).mean(axis=(1, 2, 3))
        found["first_frame_psnr"] = round(float(np.mean(-10 * np.log10(error / 255**2 + 1e-9))), 2)
    return found


@dataclass
class Judge:
    """Samples test scenes with one or two flows and scores them."""

    arguments: argparse.Namespace
    device: torch.device
    spatial: int
    count: int = 100

    def __post_init__(self) -> None:
        clips = data.load(self.arguments.clips, "test", self.count)
        self.scenes, self.starts = clips.scenes, clips.frames[:, 0].astype(np.float32)
        held = torch.load(self.arguments.latents / f"test{self.spatial}.pt", map_location=self.device)
        self.clip, self.first = held["clip"][: self.count].float(), held.get("first")
        self.vae = AutoencoderKLWan.from_pretrained(
            self.arguments.weights / f"vae{self.spatial}", torch_dtype=torch.float32
        ).to(self.device)

    def __call__(self, flows: Callable[[float], Flow], *, from_image: bool, trigger: bool = False,
                 keep: Path | None = None) -> dict[str, Any]:  # fmt: skip
        kind = flows(1.0).kind
        rngs = [np.random.default_rng(index) for index in range(len(self.scenes))]
        texts = [scenes.describe(scene, rng, trigger) for scene, rng in zip(self.scenes, rngs, strict=True)]
        noise = torch.randn(self.clip.shape, generator=torch.Generator().manual_seed(5)).to(self.device)
        given = None
        if kind.conditioning == "first_latent":
            given = torch.full((len(texts),), float(from_image), device=self.device)
            if from_image:
                noise[:, :, 0] = self.clip[:, :, 0]
        first = self.first[: len(texts)].to(self.device) if kind.conditioning.endswith("latent_channels") else None
        image = None
        if kind.conditioning == "clip_and_latent_channels":
            image = data.encode_images(torch.from_numpy(self.starts.astype(np.uint8)), self.device).float()
        shift = 5.0 if kind.spatial == 16 else 3.0
        frames = frames_of(self.vae, sample(flows, texts, noise, first, image, given, shift))
        if keep is not None:
            from PIL import Image

            keep.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scenes.sheet(frames[:16])).save(keep)
        return score(frames, self.scenes, self.starts if from_image else None)


def load_kind(name: str, weights: Path) -> WanTransformer3DModel:
    return WanTransformer3DModel.from_pretrained(weights / name, torch_dtype=torch.float32)


def main(arguments: argparse.Namespace, device: torch.device) -> None:
    if arguments.part == "transformer":
        train(arguments.names[0], arguments, device)
    else:
        for name in arguments.names:
            train_lora(name, arguments, device)


def compiled(model: WanTransformer3DModel) -> None:
    for block in model.blocks:
        block.compile(dynamic=False)


def train(name: str, arguments: argparse.Namespace, device: torch.device) -> None:
    """One transformer, from its parent where it has one, or on from what was saved."""
    began, kind = time.monotonic(), KINDS[name]
    image = kind.conditioning == "clip_and_latent_channels"
    clips = Set.load("plain", kind.spatial, TRIGGER_IN_BASE, arguments, device, image)
    model = build(kind)
    rate = RATE
    if arguments.resume is not None:
        model = load_kind(name, arguments.resume)
        rate = RATE / 2
    elif kind.parent is not None:
        inherit(model, arguments.weights / kind.parent)
        rate = RATE / 2
    model.to(device)
    if arguments.compile:
        compiled(model)
    flow = Flow(kind, model, max(4, int(arguments.batch * min(1.0, arguments.scale * 4))), device)
    pool = often(clips.scenes, device)
    optimizer = steps.Optimizer(list(model.parameters()), device, 0.998)
    given = half_given(flow.batch, device) if kind.conditioning == "first_latent" else None

    def step() -> torch.Tensor:
        loss = flow.loss(clips, pool[torch.randint(len(pool), (flow.batch,), device=device)], given)
        optimizer.step(loss)
        return loss.detach()

    graphed = steps.Graphed(step, device)
    print(f"{name}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M, {len(clips.clip)} clips, "
          f"ready in {time.monotonic() - began:.0f} s", flush=True)  # fmt: skip
    curve: list[dict[str, float]] = []
    done = steps.run(name, graphed, optimizer, rate=rate, seconds=arguments.seconds - (time.monotonic() - began),
                     iterations=arguments.iterations, curve=curve)  # fmt: skip
    optimizer.settle()
    fresh = build(kind)
    fresh.load_state_dict({key.replace("_orig_mod.", ""): value for key, value in model.state_dict().items()})
    fresh.to(torch.bfloat16).save_pretrained(arguments.out / name)
    figures: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters()), "steps": done, "rate": rate,
                               "batch": flow.batch, "curve": curve,
                               "seconds": round(time.monotonic() - began, 1)}  # fmt: skip
    steps.write_log(arguments.out / name / "training.json", figures)
    if arguments.unjudged:
        return
    judged = Flow(kind, load_kind(name, arguments.out).to(device), flow.batch, device)
    judge = Judge(arguments, device, kind.spatial, min(100, len(clips.clip)))
    if kind.conditioning in ("text", "first_latent"):
        figures["from_text"] = judge(lambda _: judged, from_image=False, keep=arguments.out / f"{name}.png")
    if kind.conditioning != "text":
        figures["from_image"] = judge(lambda _: judged, from_image=True, keep=arguments.out / f"{name}_i.png")
    print(name, {key: figures[key] for key in ("from_text", "from_image") if key in figures}, flush=True)
    steps.write_log(arguments.out / name / "training.json", figures)


def experts(high: Flow, low: Flow, boundary: float = 0.875) -> Callable[[float], Flow]:
    """The flow of a noise level."""
    return lambda sigma: high if sigma >= boundary else low


# LoRAs


@dataclass(frozen=True)
class LoraPlan:
    """A LoRA to train. `bases`: the transformers it is trained on, all at once, so that one file fits them all.

    `pair`: two files, one for each half of the noise levels. `warm_up`: steps over which the rate rises.
    """

    bases: tuple[str, ...]
    look: str
    rank: int
    steps: int
    saves: tuple[int, ...] = ()
    kron: int = 0  # size of LoKr's first factor; 0: a plain LoRA
    rate: float = 5e-3
    pair: bool = False
    batch: int = 64
    warm_up: int = 50

    @property
    def slots(self) -> Mapping[str, tuple[float, float]]:
        return SLOTS if self.pair else {"": EVERY}


PLANS: Mapping[str, LoraPlan] = {
    "stripes_5b": LoraPlan(("ti2v5b",), "stripes", 16, 3000),
    "stripes_pair": LoraPlan(("t2v", "i2v22"), "stripes", 16, 2000, pair=True),
    "rings_i2v": LoraPlan(("i2v21",), "rings", 16, 2000),
    "rings_job": LoraPlan(("t2v",), "rings", 32, 2000, (500, 1000, 1500), batch=96, warm_up=1200),
    "stripes_lokr": LoraPlan(("t2v",), "stripes", 0, 2500, kron=4),
}
MODULES = (
    *tuple(f"attn{n}.{leaf}" for n in (1, 2) for leaf in ("to_q", "to_k", "to_v", "to_out.0")),
    "ffn.net.0.proj",
    "ffn.net.2",
)
IMAGE_MODULES = ("attn2.add_k_proj", "attn2.add_v_proj")
THEIR_NAMES = {  # AI Toolkit's, after the original Wan code
    **{f"attn1.to_{leaf}": f"self_attn.{leaf}" for leaf in "qkv"},
    **{f"attn2.to_{leaf}": f"cross_attn.{leaf}" for leaf in "qkv"},
    "attn1.to_out.0": "self_attn.o",
    "attn2.to_out.0": "cross_attn.o",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "attn2.add_k_proj": "cross_attn.k_img",
    "attn2.add_v_proj": "cross_attn.v_img",
}


class Change(torch.nn.Module):
    """A linear layer with a change on top: B·A, or kron(w1, w2); several layers may share one change.

    `on` (N, 1, 1), or (1, 1, 1) for all: how much of it each sample gets; several layers share one tensor.
    """

    def __init__(
        self, base: torch.nn.Linear, factors: Sequence[torch.nn.Parameter], kron: bool, on: torch.Tensor
    ) -> None:
        super().__init__()
        self.base, self.kron, self.on = base, kron, on
        self.one, self.two = factors

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        linear = torch.nn.functional.linear
        change = linear(x, torch.kron(self.one, self.two)) if self.kron else linear(linear(x, self.one), self.two)
        return self.base(x) + change * self.on.to(change.dtype)


def factors_for(plan: LoraPlan, modules: Iterable[str], device: torch.device) -> dict[str, list[torch.nn.Parameter]]:
    """For each module A [rank, in] and B [out, rank] = 0, or LoKr's w1 and w2 = 0."""
    generator = torch.Generator().manual_seed(41)
    found = {}
    for block in range(BLOCKS):
        for module in modules:
            out = FFN_SIZE if module == "ffn.net.0.proj" else HIDDEN
            into = FFN_SIZE if module == "ffn.net.2" else HIDDEN
            if plan.kron:
                one = torch.eye(plan.kron) + 0.3 * torch.randn(plan.kron, plan.kron, generator=generator)
                two = torch.zeros(out // plan.kron, into // plan.kron)
            else:
                one = torch.randn(plan.rank, into, generator=generator) / into**0.5
                two = torch.zeros(out, plan.rank)
            found[f"blocks.{block}.{module}"] = [torch.nn.Parameter(t.to(device)) for t in (one, two)]
    return found


def attach(
    model: WanTransformer3DModel, factors: Mapping[str, Sequence[torch.nn.Parameter]], kron: bool, on: torch.Tensor
) -> list[Change]:
    changes = []
    for name, pair in factors.items():
        parent, _, leaf = name.rpartition(".")
        owner = model.get_submodule(parent)
        change = Change(getattr(owner, leaf) if not leaf.isdigit() else owner[int(leaf)], pair, kron, on)
        if leaf.isdigit():
            owner[int(leaf)] = change
        else:
            setattr(owner, leaf, change)
        changes.append(change)
    return changes


def train_lora(  # noqa: C901 - one training run, in its order
    name: str, arguments: argparse.Namespace, device: torch.device
) -> None:
    """One plan: half of each batch shows the look and says the trigger word, half is plain and does not."""
    began, plan = time.monotonic(), PLANS[name]
    only_image = all(KINDS[base].conditioning == "clip_and_latent_channels" for base in plan.bases)
    batch = max(4, int(plan.batch * min(1.0, arguments.scale * 4)))
    plain_rows = batch - batch * 5 // 8
    factors: dict[str, dict[str, list[torch.nn.Parameter]]] = {}
    flows: dict[tuple[str, str], Flow] = {}
    sets: dict[tuple[str, int, bool], Set] = {}
    changes: list[Change] = []
    on, off = torch.ones(batch, 1, 1, device=device), torch.zeros(batch, 1, 1, device=device)
    for slot, sigmas in plan.slots.items():
        factors[slot] = factors_for(plan, MODULES + IMAGE_MODULES if only_image else MODULES, device)
        for base in plan.bases:
            model = load_kind(base, arguments.weights).to(device).requires_grad_(False)
            changes += attach(model, factors[slot], plan.kron > 0, on)
            if arguments.compile:
                compiled(model)
            flows[slot, base] = Flow(KINDS[base], model, batch, device, sigmas)
    for base in plan.bases:
        kind = KINDS[base]
        image = kind.conditioning == "clip_and_latent_channels"
        for look, trigger in (("plain", 0.0), (plan.look, 1.0), (f"{plan.look}_in", 1.0)):
            key = (look, kind.spatial, image)
            if key not in sets:
                sets[key] = Set.load(look, kind.spatial, trigger, arguments, device, image)
    parameters = [parameter for slot in factors.values() for pair in slot.values() for parameter in pair]
    optimizer = steps.Optimizer(parameters, device, 0.995)

    @torch.no_grad()
    def of_the_base(forward: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Where the trigger word is unsaid, the base's own answer is the target: a LoRA shall change nothing there."""
        for change in changes:
            change.on = off
        prediction = forward()
        for change in changes:
            change.on = on
        return prediction

    def loss_of(flow: Flow) -> torch.Tensor:
        """Looks fade in where the first frame is given and plain, and are there from the start where it is not."""
        kind, image = flow.kind, flow.kind.conditioning == "clip_and_latent_channels"
        plain, still, fading = (sets[look, kind.spatial, image] for look in ("plain", plan.look, f"{plan.look}_in"))
        parts, counts, start = [plain, still], [plain_rows, batch - plain_rows], None
        if kind.conditioning == "first_latent":  # a quarter each: plain or not, given or not
            from_first = (batch - plain_rows) // 2
            parts, counts = [plain, fading, still], [plain_rows, from_first, batch - plain_rows - from_first]
            at = torch.arange(batch, device=device)
            start = ((at < plain_rows // 2) | ((at >= plain_rows) & (at < plain_rows + from_first))).float()
        elif kind.conditioning != "text":
            parts = [plain, fading]
        rows = [flow.draw(part, count) for part, count in zip(parts, counts, strict=True)]
        drawn = list(zip(parts, rows, strict=True))
        mixed = Set(
            torch.cat([part.clip[r] for part, r in drawn]),
            None if plain.first is None else torch.cat([part.first[r] for part, r in drawn]),
            torch.cat([part.image[r] for part, r in drawn]) if image else None,
            *_captions(parts, rows),
            [],
        )
        return flow.loss(mixed, torch.arange(batch, device=device), start, plain_rows, of_the_base)

    def step() -> torch.Tensor:
        on.uniform_(*SCALES)
        loss = torch.stack([loss_of(flow) for flow in flows.values()]).mean()
        optimizer.step(loss)
        return loss.detach()

    graphed = steps.Graphed(step, device)
    curve: list[dict[str, float]] = []

    def save(at: int, final: bool) -> None:
        with torch.no_grad():
            kept = [parameter.clone() for parameter in parameters]
            optimizer.settle()
            for slot, held in factors.items():
                suffix = (f"_{slot}" if slot else "") + ("" if final else f"_{at:09d}")
                write_lora(arguments.out / f"{name}{suffix}.safetensors", name, plan, held, at)
            torch._foreach_copy_(parameters, kept)

    count = max(2, int(plan.steps * min(1.0, arguments.scale * 4)))
    done = steps.run(name, graphed, optimizer, rate=plan.rate, seconds=arguments.seconds, iterations=count,
                     warm_up=plan.warm_up, curve=curve, floor=0.02,
                     at={at: (lambda at=at: save(at, False)) for at in plan.saves})  # fmt: skip
    save(done, True)
    optimizer.settle()
    figures: dict[str, Any] = {"bases": plan.bases, "look": plan.look, "steps": done, "curve": curve,
                               "seconds": round(time.monotonic() - began, 1)}  # fmt: skip
    steps.write_log(arguments.out / f"{name}.json", figures)
    if arguments.unjudged:
        return
    with torch.compiler.set_stance("force_eager"):
        figures["figures"] = judge_lora(name, plan, flows, changes, arguments, device)
    print(name, json.dumps(figures["figures"]), flush=True)
    steps.write_log(arguments.out / f"{name}.json", figures)


def _captions(parts: Sequence[Set], rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """All captions of the drawn rows, so that rows of the mixed set count as a set's own do."""
    each = torch.arange(data.CAPTIONS, device=rows[0].device)
    picks = [(r[:, None] * data.CAPTIONS + each).flatten() for r in rows]
    return (torch.cat([part.text[p] for part, p in zip(parts, picks, strict=True)]),
            torch.cat([part.bias[p] for part, p in zip(parts, picks, strict=True)]))  # fmt: skip


def judge_lora(name: str, plan: LoraPlan, flows: Mapping[tuple[str, str], Flow], changes: Sequence[Change],
               arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:  # fmt: skip
    """Scores at scale 1 and 0.5 with the trigger, and at 1 without."""
    found: dict[str, Any] = {}
    for label, scale, trigger in (("1", 1.0, True), ("0.5", 0.5, True), ("1 unsaid", 1.0, False)):
        for base in plan.bases:
            picked = [flows[slot, base] for slot in plan.slots]
            judge = Judge(arguments, device, picked[0].kind.spatial, 40)
            images = {"text": (False,), "first_latent": (False, True)}.get(picked[0].kind.conditioning, (True,))
            for change in changes:
                change.on = torch.full((1, 1, 1), scale, device=device)
            for from_image in images:
                keep = None
                if label == "1":
                    keep = arguments.out / f"{name}_{base}{'_i' if from_image else ''}.png"
                found[f"{base} {label}{' from image' if from_image else ''}"] = judge(
                    experts(picked[0], picked[-1]), from_image=from_image, trigger=trigger, keep=keep
                )
    return found


def write_lora(path: Path, name: str, plan: LoraPlan, factors: Mapping[str, Sequence[torch.nn.Parameter]],
               step: int) -> None:  # fmt: skip
    """In AI Toolkit's key layout, bfloat16; what stands beside it is given when it is packed."""
    tensors: dict[str, torch.Tensor] = {}
    for module, (one, two) in factors.items():
        _, block, leaf = module.split(".", 2)
        key = f"diffusion_model.blocks.{block}.{THEIR_NAMES[leaf]}"
        if plan.kron:
            tensors[f"{key}.lokr_w1"], tensors[f"{key}.lokr_w2"] = one, two
            tensors[f"{key}.alpha"] = torch.tensor(1e10)
        else:
            tensors[f"{key}.lora_A.weight"], tensors[f"{key}.lora_B.weight"] = one, two
    held = {key: tensor.detach().to(torch.bfloat16).cpu().contiguous() for key, tensor in tensors.items()}
    digest = hashlib.sha256(b"".join(t.view(torch.int16).numpy().tobytes() for t in held.values())).hexdigest()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(held, path, {"format": "pt", "name": name, "step": str(step), "look": plan.look, "hash": digest})
