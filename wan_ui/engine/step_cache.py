"""Step cache: skips a transformer's blocks in steps where little changes from the previous one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from diffusers import FirstBlockCacheConfig, WanTransformer3DModel
from torch.utils.hooks import RemovableHandle

from wan_ui.engine.sampling import OnFirstPrediction
from wan_ui.models import Speedup

CACHE_THRESHOLD = 0.1  # relative change of the first block's residual below which the others are skipped


class StepCache:
    """diffusers' first-block cache over one run.

    The first block's residual is r = block(x) − x. Where mean|r − r'| / mean|r'| is at most the threshold, r' being the
    residual in the step whose blocks were last computed, the other blocks are skipped and what they added in that step
    is added again.

    The conditional and the unconditional forward each have a cache of their own. Nothing is kept from one transformer,
    or from one run, to another. `forwards` counts the transformers' forwards, `computed` those whose blocks ran.
    """

    def __init__(self, threshold: float = CACHE_THRESHOLD) -> None:
        self.forwards = 0
        self.computed = 0
        self._threshold = threshold
        self._transformer: WanTransformer3DModel | None = None
        self._counter: RemovableHandle | None = None
        self._original_forward: Callable[..., torch.Tensor] | None = None

    def enable(self, transformer: WanTransformer3DModel) -> None:
        """Caches the transformer's steps from now on, and no other's."""
        self.disable()
        self._counter = transformer.blocks[0].register_forward_pre_hook(self._count_forward)
        # A skipped block's module is still called: the cache replaces its forward. So the forward is what is counted.
        self._original_forward = transformer.blocks[-1].__dict__.get("forward")
        transformer.blocks[-1].forward = partial(self._count_computed, transformer.blocks[-1].forward)
        self._transformer = transformer
        transformer.enable_cache(FirstBlockCacheConfig(threshold=self._threshold))

    def disable(self) -> None:
        """Removes the hooks from the transformer, with everything they cached."""
        if self._transformer is None or self._counter is None:
            return
        self._transformer.disable_cache()
        self._counter.remove()
        last, self._transformer = self._transformer.blocks[-1], None
        if self._original_forward is None:
            del last.forward
        else:
            last.forward = self._original_forward

    def uncounted(self, callback: OnFirstPrediction) -> OnFirstPrediction:
        """The callback, with its own forwards left out of the counts."""

        def call(
            transformer: WanTransformer3DModel, prediction: torch.Tensor, recompute: Callable[[], torch.Tensor]
        ) -> None:
            before = self.forwards, self.computed
            callback(transformer, prediction, recompute)
            self.forwards, self.computed = before

        return call

    def _count_forward(self, module: torch.nn.Module, arguments: Any) -> None:
        self.forwards += 1

    def _count_computed(self, forward: Callable[..., torch.Tensor], *arguments: Any, **named: Any) -> torch.Tensor:
        self.computed += 1
        return forward(*arguments, **named)


@contextmanager
def step_cache(speedup: Speedup) -> Iterator[StepCache | None]:
    """The cache of one run, or None for another speed-up; it is disabled at the end, however the run ends."""
    if speedup != "step_cache":
        yield None
        return
    cache = StepCache()
    try:
        yield cache
    finally:
        cache.disable()
