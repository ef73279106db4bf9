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
from wan_ui.engine.parallel import Group, Membership


@dataclass(frozen=True)
class Runtime:
    """Shared by the pipelines that a loader makes. `forwards` counts forwards by transformer component.

    `membership` names the GPUs that render each video together. `pictures` are the maps for live pictures; None: none
    are made.
    """

    device: torch.device
    memory: MemoryPolicy
    compiler: BlockCompiler
    prompts: PromptCache
    frames: FrameCache
    forwards: Counter[str]
    membership: Membership
    pictures: LivePictures | None = None

    @property
    def group(self) -> Group | None:
        """The GPUs that render a video together now; None: this one alone."""
        return self.membership.group

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and activations on the device."""
        return model_dtype(self.device)
