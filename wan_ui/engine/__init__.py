"""The engine: one loaded model, and what it renders."""

import os

# diffusers reads a checkpoint's shards on several threads when it finds this at its import. "0" turns it off.
os.environ.setdefault("HF_ENABLE_PARALLEL_LOADING", "1")
