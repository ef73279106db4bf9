"""How a test's Gradio server ends."""

from __future__ import annotations

import gradio as gr


def stop_server(blocks: gr.Blocks) -> None:
    """Stops it. It waits a second at most for clients: a page that is still open holds its connections."""
    if blocks.is_running:
        blocks.server.config.timeout_graceful_shutdown = 1
    blocks.close(verbose=False)
