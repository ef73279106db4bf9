"""Port numbers for servers of the tests, each given out by the system and kept from everybody else."""

from __future__ import annotations

import socket
import sys

_bound: list[socket.socket] = []  # open until the process ends


def reserve_port(host: str = "127.0.0.1") -> int:
    """A TCP port that no other program is given for as long as this process lives.

    A socket stays bound to it and never listens. On Linux a server that sets SO_REUSEADDR, as uvicorn and Gradio do,
    may bind and listen there all the same, and again after it was stopped, while the system gives the port to nobody
    else. Elsewhere a bound socket would keep the server out, so the port is only found free.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind((host, 0))
    port: int = reserved.getsockname()[1]
    if sys.platform == "linux":
        _bound.append(reserved)
    else:
        reserved.close()
    return port
