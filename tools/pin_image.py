"""Pins the base image of a Dockerfile by the digest that Docker Hub names for its tag; scripts/pin-image calls it."""

from __future__ import annotations

import json
import re
import sys
import urllib.request
from pathlib import Path

TOKENS = "https://auth.docker.io/token?service=registry.docker.io&scope=repository:library/{name}:pull"
REGISTRY = "https://registry-1.docker.io"
INDEX = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json"
TIMEOUT_SECONDS = 10.0
_FROM = re.compile(r"^FROM (?P<name>[a-z0-9-]+):(?P<tag>[\w.-]+)(?:@sha256:[0-9a-f]{64})?$", re.MULTILINE)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def digest_of(name: str, tag: str, registry: str = REGISTRY, tokens: str = TOKENS) -> str:
    """The digest of an official image's index, which covers all its platforms.

    Raises OSError where the registry does not answer and ValueError where its answer has no digest.
    """
    with urllib.request.urlopen(tokens.format(name=name), timeout=TIMEOUT_SECONDS) as answer:
        token = json.load(answer)["token"]
    request = urllib.request.Request(f"{registry}/v2/library/{name}/manifests/{tag}", method="HEAD")
    request.add_header("Authorization", f"Bearer {token}")
    request.add_header("Accept", INDEX)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
        digest = str(answer.headers.get("Docker-Content-Digest", ""))
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"the registry's answer has no digest: {digest[:80]!r}")
    return digest


def pinned(dockerfile: str, digest: str) -> str:
    """The Dockerfile's text with the digest behind the tag of its base image."""
    return _FROM.sub(lambda match: f"FROM {match['name']}:{match['tag']}@{digest}", dockerfile)


def main(path: Path) -> None:
    """Pins the file's base image, or prints why its tag stays."""
    text = path.read_text()
    match = _FROM.search(text)
    if match is None:
        sys.exit(f"{path}: it has no line FROM name:tag")
    try:
        digest = digest_of(match["name"], match["tag"])
    except (OSError, ValueError, KeyError) as error:
        print(f"The tag {match['name']}:{match['tag']} stays without a digest: {error}")
        return
    path.write_text(pinned(text, digest))
    print(f"{match['name']}:{match['tag']} is {digest}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
