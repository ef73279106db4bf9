"""Caches of encoded prompts and encoded first frames: the latest few of each, with a count of the encodings."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from cachetools import LRUCache

CACHED_FRAMES = 8  # encoded first frames kept on the device, a few MB each
CACHED_PROMPTS = 128  # text embeddings kept in host memory, 4 MB each at full size


class PromptCache:
    """Text embeddings by prompt, each (1, 512, width) on the host; `encodes` counts the encoder's forwards."""

    def __init__(self) -> None:
        self._embeddings: LRUCache[str, torch.Tensor] = LRUCache(CACHED_PROMPTS)
        self.encodes = 0

    def clear(self) -> None:
        """Removes everything, for another text encoder."""
        self._embeddings.clear()

    def missing(self, prompts: tuple[str, ...]) -> list[str]:
        """The distinct prompts that are not cached, in order."""
        return [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._embeddings]

    def add(self, prompt: str, embeddings: torch.Tensor) -> None:
        """Caches a prompt's embeddings, copied to the host."""
        self.encodes += 1
        self._embeddings[prompt] = embeddings.cpu()

    def get(self, prompt: str, device: torch.device) -> torch.Tensor:
        """A cached prompt's embeddings on the device. Raises KeyError for one that is missing."""
        return self._embeddings[prompt].to(device)


class FrameCache:
    """Encoded first frames by image, size and encoder; `encodes` counts the encoders' forwards."""

    def __init__(self) -> None:
        self._encoded: LRUCache[Hashable, Any] = LRUCache(CACHED_FRAMES)
        self.encodes = 0

    def clear(self) -> None:
        """Removes everything, for another model."""
        self._encoded.clear()

    def get(self, key: Hashable, encode: Callable[[], Any]) -> Any:
        """What `encode` returned for the key, computed at the first call."""
        if key not in self._encoded:
            self._encoded[key] = encode()
            self.encodes += 1
        return self._encoded[key]
