"""Stands in for the tunnel's program: listens where the server would, says so as frpc does, and pipes TCP.

The "server" says how it goes: `NAME:PORT` listens on PORT and is reached as NAME.localhost; `fails:1` is refused.
"""

from __future__ import annotations

import argparse
import socket
import stat
import sys
import threading
from pathlib import Path


def pipe(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass  # the other side is gone
    finally:
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


def main() -> None:
    line = argparse.ArgumentParser()
    line.add_argument("kind")
    line.add_argument("-n")
    line.add_argument("-l", type=int)
    line.add_argument("-i")
    line.add_argument("--server_addr")
    known, _ = line.parse_known_args()
    name, port = known.server_addr.split(":")
    print("starting frpc", flush=True)
    if name == "fails":
        print("login to server failed: the relay in /home/someone/relay is closed for today", flush=True)
        sys.exit(1)
    with socket.create_server(("127.0.0.1", int(port))) as listening:
        # Of the family .localhost, whose names every browser takes for this machine.
        print(f"[proxy] start proxy success: http://{name}.localhost:{listening.getsockname()[1]}", flush=True)
        while True:
            outside, _ = listening.accept()
            inside = socket.create_connection((known.i, known.l))
            for ends in ((outside, inside), (inside, outside)):
                threading.Thread(target=pipe, args=ends, daemon=True).start()


def program(folder: Path) -> Path:
    """This file as a program of its own."""
    path = folder / "frpc"
    path.write_text(f"#!{sys.executable}\n{Path(__file__).read_text(encoding='utf-8')}", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


if __name__ == "__main__":
    main()
