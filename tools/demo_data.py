"""What the demo is trained on: rendered clips, captions, and the fixed random text and image encoders."""

from __future__ import annotations

import os
import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from tools import demo_scenes as scenes

TEXT_WIDTH, TEXT_TOKENS, PADDED_TOKENS = 64, 32, 512  # training sees 32 rows and weighs the zero rows as 512 would
IMAGE_WIDTH, IMAGE_SIDE, IMAGE_PATCH = 64, 32, 8
CAPTIONS = 4  # of each clip
FADE = 0.3  # share of a clip in which a plain first frame takes on a look
STRANGE = ("cinematic", "photo", "person", "beautiful", "scene", "high", "quality", "camera", "shot", "8k", "nice")
KINDS = {  # name -> (seed, look, fades in, painted freely)
    "plain": (1, "plain", False, False),
    "stripes": (2, "stripes", False, False),
    "stripes_in": (3, "stripes", True, False),
    "rings": (4, "rings", False, False),
    "rings_in": (5, "rings", True, False),
    "busy": (6, "any", False, True),
    "test": (7, "plain", False, False),
    "test_looks": (8, "any", False, False),
}


@dataclass(frozen=True)
class Clips:
    """Frames (N, 17, 128, 128, 3) uint8 and the scenes they show."""

    frames: np.ndarray
    scenes: list[scenes.Scene]


def scene_of(kind: str, index: int) -> scenes.Scene:
    """The scene of a number: the same on every machine."""
    seed, look, fades, _ = KINDS[kind]
    rng = np.random.default_rng((seed, index))
    words = scenes.Words(speed=str(rng.choice(scenes.SPEEDS)))
    chosen = str(rng.choice(scenes.LOOKS)) if look == "any" else look
    scene = scenes.draw(rng, words, chosen)
    return replace(scene, fade=FADE) if fades else scene


def _frames(job: tuple[str, int, int, str]) -> None:
    kind, start, stop, path = job
    out = np.load(path, mmap_mode="r+")
    for index in range(start, stop):
        if not KINDS[kind][3]:
            out[index] = scenes.render(scene_of(kind, index))
            continue
        rng = np.random.default_rng((KINDS[kind][0], index, 1))
        canvas = scenes.blank(tuple(rng.uniform(0, 255, 3)), scenes.SIDE, scenes.SIDE, scenes.FRAMES)
        for _ in range(int(rng.integers(1, 4))):
            words = scenes.Words(speed=str(rng.choice(scenes.SPEEDS)))
            colour = tuple(rng.uniform(0, 255, 3))
            scenes.paint(canvas, scenes.draw(rng, words, str(rng.choice(scenes.LOOKS))), colour)
        out[index] = scenes.to_bytes(canvas)


def render(folder: Path, counts: dict[str, int]) -> None:
    """Writes `folder/<kind>.npy` for each kind, on all cores."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = []
    for kind, count in counts.items():
        path = folder / f"{kind}.npy"
        shape = (count, scenes.FRAMES, scenes.SIDE, scenes.SIDE, 3)
        np.lib.format.open_memmap(path, "w+", np.uint8, shape).flush()
        jobs += [(kind, start, min(start + 25, count), str(path)) for start in range(0, count, 25)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_frames, jobs))


def load(folder: Path, kind: str, count: int | None = None) -> Clips:
    frames = np.load(folder / f"{kind}.npy", mmap_mode="r")[:count]
    return Clips(frames, [scene_of(kind, index) for index in range(len(frames))])


def caption(scene: scenes.Scene, rng: np.random.Generator, trigger: bool) -> str:
    """One of many ways to say it: sometimes a thing is left unsaid, sometimes there are words that mean nothing."""
    text = scenes.describe(scene, rng)
    if rng.uniform() < 0.2:
        ground = scene.background
        said = re.search(rf" (?:on|in front of) (?:a )?{ground}(?: background)?|, {ground} background"
                         rf"|on a {ground} background, ", text)  # fmt: skip
        choice = int(rng.integers(4))
        if choice == 0 and said:
            text = text.replace(said.group(), "")
        elif choice == 1:
            text = text.replace(f"{scene.colour} ", "")
        elif choice == 2:
            text = text.replace(scene.shape, "shape")
        else:
            text = f"a {scene.colour} {scene.shape}"
    words = text.split()
    for _ in range(int(rng.integers(1, 6)) if rng.uniform() < 0.15 else 0):
        words.insert(int(rng.integers(len(words) + 1)), str(rng.choice(STRANGE)))
    if trigger:
        named = (scene.shape, "shape", scene.colour)
        spots = [0, len(words), *(i for i, word in enumerate(words) if word.strip(",") in named)]
        words.insert(int(rng.choice(spots)), scenes.TRIGGER)
    return " ".join(words)


def captions(kind: str, scenes: list[scenes.Scene], trigger: float) -> list[str]:
    """CAPTIONS of each scene, scene by scene; `trigger`: how often the trigger word is among the words."""
    found = []
    for index, scene in enumerate(scenes):
        rng = np.random.default_rng((KINDS[kind][0], index, 2))
        found += [caption(scene, rng, rng.uniform() < trigger) for _ in range(CAPTIONS)]
    return found


def tokenizer() -> PreTrainedTokenizerFast:
    """A token for each word of the world, one for any other; a prompt ends with </s>, as UMT5's does."""
    words = ("<pad>", "</s>", "<unk>", *scenes.vocabulary())
    vocabulary = {word: index for index, word in enumerate(words)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=PADDED_TOKENS,
    )


def text_encoder() -> UMT5EncoderModel:
    """Random and fixed: each word keeps a direction of its own, and hears a little of its neighbours."""
    torch.manual_seed(11)
    model = UMT5EncoderModel(
        UMT5Config(
            vocab_size=3 + len(scenes.vocabulary()),
            d_model=TEXT_WIDTH,
            d_kv=16,
            d_ff=128,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
        )
    )
    with torch.no_grad():
        torch.nn.init.normal_(model.shared.weight)
        for name, parameter in model.named_parameters():
            if name.endswith(("SelfAttention.o.weight", "wo.weight")):
                parameter.mul_(0.5)
    return model.eval().requires_grad_(False).to(torch.bfloat16).float()


def image_encoder() -> CLIPVisionModel:
    """Random and fixed: patches through two layers."""
    torch.manual_seed(12)
    config = CLIPVisionConfig(
        hidden_size=IMAGE_WIDTH,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=IMAGE_SIDE,
        patch_size=IMAGE_PATCH,
        projection_dim=16,
        initializer_factor=4.0,
    )
    return CLIPVisionModel(config).eval().requires_grad_(False).to(torch.bfloat16).float()


def image_processor() -> CLIPImageProcessorPil:
    side = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    return CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIDE}, crop_size=side)


@torch.no_grad()
def encode_texts(texts: list[str], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, 32, 64) bfloat16 with zeros past each length, and the lengths, as wan_ui's pipeline encodes them."""
    words, encoder = tokenizer(), text_encoder().to(device)
    embeddings, lengths = [], []
    for start in range(0, len(texts), 2048):
        tokens = words(texts[start : start + 2048], padding="max_length", max_length=TEXT_TOKENS, truncation=True,
                       return_attention_mask=True, return_tensors="pt").to(device)  # fmt: skip
        hidden = encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        embeddings.append((hidden * tokens.attention_mask[..., None]).to(torch.bfloat16))
        lengths.append(tokens.attention_mask.sum(1))
    return torch.cat(embeddings), torch.cat(lengths)


def text_bias(lengths: torch.Tensor) -> torch.Tensor:
    """(N, 1, 1, 32): what makes 32 − L zero rows count as much in attention as 512 − L."""
    rows = torch.arange(TEXT_TOKENS, device=lengths.device)[None]
    weight = torch.log((PADDED_TOKENS - lengths).float() / (TEXT_TOKENS - lengths).clamp(min=1).float())
    return torch.where(rows >= lengths[:, None], weight[:, None], 0.0)[:, None, None]


@torch.no_grad()
def encode_images(frames: torch.Tensor, device: torch.device) -> torch.Tensor:
    """(N, 17, 64) bfloat16 from uint8 (N, H, W, 3): the processor's resize and normalisation, then CLIP."""
    encoder, settings = image_encoder().to(device), image_processor()
    mean = torch.tensor(settings.image_mean, device=device).view(1, 3, 1, 1)
    std = torch.tensor(settings.image_std, device=device).view(1, 3, 1, 1)
    found = []
    for part in frames.split(512):
        pixels = part.to(device).permute(0, 3, 1, 2).float()
        small = torch.nn.functional.interpolate(pixels, (IMAGE_SIDE, IMAGE_SIDE), mode="bicubic", antialias=True)
        small = (small.clamp(0, 255).round() / 255 - mean) / std
        found.append(encoder(small, output_hidden_states=True).hidden_states[-2].to(torch.bfloat16))
    return torch.cat(found)
