"""What all pipelines of one engine share: the device, its memory policy, the compiler and the caches."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch

from wan_ui.engine.caches import FrameCache, PromptCache
from wan_ui.engine.compile import BlockCompiler
from wan_ui.engine.components import model_dtype
from wan_ui.engine.live_picture import LivePictures
from wan_ui.engine.memory import MemoryPolicy
from wan_ui.engine.parallel import Group


@dataclass(frozen=True)
class Runtime:
    """Shared by the pipelines that a loader makes. `forwards` counts forwards by transformer component.

    `group` are the GPUs that render each video together; None: this one alone. `pictures` are the maps for live
    pictures; None: none are made.
    """

    device: torch.device
    memory: MemoryPolicy
    compiler: BlockCompiler
    prompts: PromptCache
    frames: FrameCache
    forwards: Counter[str]
    group: Group | None = None
    pictures: LivePictures | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and activations on the device."""
        return model_dtype(self.device)
