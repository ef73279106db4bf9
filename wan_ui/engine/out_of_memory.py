"""How torch says that device memory ran out; it knows no model and no mode."""

from __future__ import annotations

import torch

# Beside torch's own allocator: in the driver, and when a library wants its workspace.
_SIGNS = ("CUDA error: out of memory", "CUDA driver error: out of memory", "STATUS_ALLOC_FAILED")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch says that device memory ran out."""
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in _SIGNS)
