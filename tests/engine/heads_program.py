"""Ranks against one alone: `python -m tests.engine.heads_program HEADS GUIDANCE SEQUENCE FOLDER [MODELS_DIR]`.

Importing torch takes seconds, so one process imports it and forks the ranks. Each compares the predictions of a tiny
transformer with so many heads, for even and uneven numbers of tokens, with its own without a group. With MODELS_DIR the
first rank compares the frames of a video of the 1.3B checkpoint there instead, which must have so many heads. Exit code
0 when every bit was equal.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback

import numpy as np
import torch
import torch.distributed as dist
from diffusers import WanTransformer3DModel

from wan_ui import Engine
from wan_ui.engine.parallel import Group, join
from wan_ui.engine.split import GroupPlace, Split

CPU = torch.device("cpu")
CHECKPOINT = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
SIZES = ((5, 16, 16), (3, 14, 18))  # latent frames, height and width: 320 and 189 tokens


def predict(transformer: WanTransformer3DModel, size: tuple[int, int, int]) -> torch.Tensor:
    generator = torch.Generator(CPU).manual_seed(sum(size))
    latents = torch.randn(1, 16, *size, generator=generator)
    text = torch.randn(1, 12, 16, generator=generator)
    with torch.no_grad():
        prediction: torch.Tensor = transformer(latents, torch.tensor([500]), text, return_dict=False)[0]
    return prediction


def render(heads: int, place: GroupPlace) -> bool:
    """Whether this rank's predictions in the group, and alone after it, equal those before it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        num_attention_heads=heads, attention_head_dim=12, text_dim=16, freq_dim=32, ffn_dim=64, num_layers=2
    ).eval()
    alone = [predict(transformer, size) for size in SIZES]
    group = join(place, CPU)
    with group.divided([transformer]):
        together = [predict(transformer, size) for size in SIZES]
    after = [predict(transformer, size) for size in SIZES]
    dist.barrier()
    group.close()
    if place.rank == 0:
        for size, before, divided, again in zip(SIZES, alone, together, after, strict=True):
            print(size, float((before - divided).abs().max()), float((before - again).abs().max()), flush=True)
    return all(map(torch.equal, alone, together)) and all(map(torch.equal, alone, after))


def video(models_dir: str, group: Group | None) -> np.ndarray:
    prompt = {"prompt": "a fox", "width": 112, "height": 80, "num_frames": 9, "sample_steps": 3, "seed": 5}
    engine = Engine(models_dir, device="cpu", group=group)
    (clip,) = engine.generate({"model": "wan21_1b", "prompts": [prompt]})
    engine.close()
    assert clip.metadata.get("split", "none") == str(group.split if group else Split())
    return clip.frames


def render_video(heads: int, models_dir: str, place: GroupPlace) -> bool:
    """Whether the first rank's frames in the group equal those that it rendered alone."""
    torch.set_num_threads(1)
    config = WanTransformer3DModel.load_config(f"{models_dir}/{CHECKPOINT}/transformer")
    assert config["num_attention_heads"] == heads
    alone = None if place.rank else video(models_dir, None)
    together = video(models_dir, join(place, CPU))
    return alone is None or np.array_equal(alone, together)


def main() -> int:
    heads, guidance, sequence = (int(text) for text in sys.argv[1:4])
    folder, models_dir = sys.argv[4], sys.argv[5:]
    split, children = Split(guidance, sequence), []
    for rank in range(split.ranks):
        child = os.fork()
        if not child:
            place = GroupPlace(split, rank, f"{folder}/rendezvous")
            try:
                equal = render_video(heads, models_dir[0], place) if models_dir else render(heads, place)
                os._exit(0 if equal else 1)
            finally:
                traceback.print_exc()
                os._exit(2)
        children.append(child)
    while children:
        child, status = os.wait()
        children.remove(child)
        if status:
            for other in children:  # they would wait for it
                os.kill(other, signal.SIGKILL)
            return os.waitstatus_to_exitcode(status)
    return 0


if __name__ == "__main__":
    sys.exit(main())
