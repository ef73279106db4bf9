"""CLIP's input pixels of a first frame, with the reference's numbers on each kind of device.

transformers has two processors for CLIP that differ in the last bits of the bicubic resize: one on PIL, one on torch
that needs torchvision. The reference's frames on a CPU were made with the first, those on a CUDA GPU (whose
installations come with torchvision) with the second. Here the second is torch's own resize, without torchvision.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil


def clip_pixels(processor: CLIPImageProcessorPil, image: Image.Image, device: torch.device) -> torch.Tensor:
    """(1, 3, crop, crop) float32 on the device: shortest side resized, centre cropped, normalised."""
    if device.type != "cuda":
        pixels: torch.Tensor = processor(images=image, return_tensors="pt")["pixel_values"]
        return pixels.to(device)
    shortest, crop = processor.size["shortest_edge"], processor.crop_size
    rgb = torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(0)
    resized = torch.nn.functional.interpolate(
        rgb.contiguous(), size=_shortest_to(image, shortest), mode="bicubic", antialias=True
    )
    top = int((resized.shape[2] - crop["height"]) / 2.0)
    left = int((resized.shape[3] - crop["width"]) / 2.0)
    cropped = resized[:, :, top : top + crop["height"], left : left + crop["width"]].to(torch.float32)
    mean = torch.tensor(processor.image_mean) * (1.0 / processor.rescale_factor)
    std = torch.tensor(processor.image_std) * (1.0 / processor.rescale_factor)
    return cropped.sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1)).to(device)


def _shortest_to(image: Image.Image, shortest: int) -> tuple[int, int]:
    """(height, width) with the shorter side `shortest` and the longer in proportion, rounded down."""
    if image.height <= image.width:
        return shortest, int(shortest * image.width / image.height)
    return int(shortest * image.height / image.width), shortest
