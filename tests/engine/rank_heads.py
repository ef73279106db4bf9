"""One rank of a group on the CPU whose predictions, or frames, are compared with those that it computes alone.

By a tiny transformer with so many heads, for even and uneven numbers of tokens; or by the 1.3B checkpoint of a folder,
which must have so many heads.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from diffusers import WanTransformer3DModel

from wan_ui import Engine
from wan_ui.engine.parallel import Connections, Group
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


def compare_predictions(heads: int, place: GroupPlace) -> None:
    """Asserts that this rank's predictions in the group, and alone after it, equal those before it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        num_attention_heads=heads, attention_head_dim=12, text_dim=16, freq_dim=32, ffn_dim=64, num_layers=2
    ).eval()
    alone = [predict(transformer, size) for size in SIZES]
    connections = Connections(place, CPU)
    with connections.group(place).divided([transformer]):
        together = [predict(transformer, size) for size in SIZES]
    after = [predict(transformer, size) for size in SIZES]
    dist.barrier()
    connections.close()
    if place.rank == 0:
        for size, before, divided, again in zip(SIZES, alone, together, after, strict=True):
            print(size, float((before - divided).abs().max()), float((before - again).abs().max()), flush=True)
    assert all(map(torch.equal, alone, together)) and all(map(torch.equal, alone, after))


def video(models_dir: str, group: Group | None) -> np.ndarray:
    prompt = {"prompt": "a fox", "width": 112, "height": 80, "num_frames": 9, "sample_steps": 3, "seed": 5}
    engine = Engine(models_dir, device="cpu", group=group)
    (clip,) = engine.generate({"model": "wan21_1b", "prompts": [prompt]})
    engine.close()
    assert clip.metadata.get("split", "none") == str(group.split if group else Split())
    return clip.frames


def compare_videos(heads: int, place: GroupPlace, models_dir: str) -> None:
    """Asserts that the first rank's frames in the group equal those that it rendered alone."""
    torch.set_num_threads(1)
    config = WanTransformer3DModel.load_config(f"{models_dir}/{CHECKPOINT}/transformer")
    assert config["num_attention_heads"] == heads
    alone = None if place.rank else video(models_dir, None)
    together = video(models_dir, Connections(place, CPU).group(place))
    assert alone is None or np.array_equal(alone, together)
