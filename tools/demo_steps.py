"""One training step as a CUDA graph, the learning rate's course, and the log of figures."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

WARM_UP = 3  # steps before the graph is recorded


class Graphed:
    """A step without arguments, recorded once on CUDA and replayed; on the CPU it just runs."""

    def __init__(self, step: Callable[[], torch.Tensor], device: torch.device) -> None:
        self._step, self._graph = step, None
        if device.type == "cuda":
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    step()
            torch.cuda.current_stream().wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._loss = step()

    def __call__(self) -> torch.Tensor:
        if self._graph is None:
            return self._step()
        self._graph.replay()
        return self._loss


class Optimizer:
    """AdamW with gradient clipping and an exponential average of the weights; all of it fits into a graph."""

    def __init__(
        self, parameters: Sequence[torch.nn.Parameter], device: torch.device, decay: float, weight_decay: float = 0.0
    ) -> None:
        self.parameters = list(parameters)
        self.rate = torch.tensor(0.0, device=device)
        self._adam = torch.optim.AdamW(
            self.parameters, lr=self.rate, betas=(0.9, 0.99), weight_decay=weight_decay, compiled=True,
            capturable=device.type == "cuda",
        )  # fmt: skip
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self._decay = decay

    def step(self, loss: torch.Tensor) -> None:
        self._adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self._adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.parameters, 1 - self._decay)

    @torch.no_grad()
    def settle(self) -> None:
        """The average becomes the weights."""
        torch._foreach_copy_(self.parameters, self.average)


def run(
    name: str,
    step: Callable[[], torch.Tensor],
    optimizer: Optimizer,
    *,
    rate: float,
    seconds: float,
    iterations: int,
    warm_up: int = 50,
    floor: float = 0.02,
    curve: list[dict[str, float]],
    at: dict[int, Callable[[], None]] | None = None,
) -> int:
    """Steps until either limit; the rate rises over `warm_up` steps and falls along a cosine to `floor` of itself.

    `curve` collects step, seconds and mean loss; `at` are things to do after a number of steps. Returns the steps.
    """
    start, done, total, counted = time.monotonic(), 0, torch.zeros((), device=optimizer.rate.device), 0
    every = max(1, min(100, iterations // 20))
    share = 0.0
    while share < 1:
        course = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share))
        optimizer.rate.fill_(rate * min(1.0, (done + 1) / warm_up) * course)
        total += step().detach()
        done, counted = done + 1, counted + 1
        if done % every == 0:
            loss = total.item() / counted
            total.zero_()
            counted = 0
            curve.append({"step": done, "seconds": round(time.monotonic() - start, 2), "loss": round(loss, 6)})
            if done % (every * 10) == 0:
                print(f"{name}: step {done} {time.monotonic() - start:.0f} s loss {loss:.5f}", flush=True)
        if at and done in at:
            at[done]()
        share = max(done / iterations, (time.monotonic() - start) / seconds)
    print(f"{name}: {done} steps in {time.monotonic() - start:.0f} s", flush=True)
    return done


def write_log(path: Path, figures: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n")
