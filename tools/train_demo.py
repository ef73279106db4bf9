"""Trains the demo's checkpoints and LoRAs in short parts, each of which starts from what the last one saved."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parts = ["render", "vae8", "vae16", "encode8", "encode16", "transformer", "lora"]
    parser.add_argument("part", choices=parts)
    parser.add_argument("names", nargs="*", help="kinds to render (kind=count) or encode, the transformer, the LoRA")
    parser.add_argument("--clips", type=Path, required=True, help="folder of rendered clips")
    parser.add_argument("--latents", type=Path, help="folder of latents")
    parser.add_argument("--weights", type=Path, help="folder of what the earlier parts saved")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--iterations", type=int, default=1_000_000)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the clips and batches, to try things out")
    parser.add_argument("--shares", help="autoencoders: shares of the time for 1, 5 and 17 frames, such as 0.2,0.2,0.6")
    parser.add_argument("--decoder", action="store_true", help="autoencoders: only the decoder learns")
    parser.add_argument("--batch", type=int, default=128, help="transformers: clips of a step")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--unjudged", action="store_true", help="leave the figures to tools.demo_evaluate")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    if arguments.part == "render":
        import demo_data

        demo_data.render(arguments.clips, {kind: int(n) for kind, n in (name.split("=") for name in arguments.names)})
    elif arguments.part in ("vae8", "vae16"):
        import demo_vae

        shares = None if arguments.shares is None else [float(share) for share in arguments.shares.split(",")]
        demo_vae.train(int(arguments.part[3:]), arguments.clips, arguments.out, arguments.seconds,
                       arguments.iterations, device, arguments.resume, shares, arguments.scale,
                       arguments.decoder)  # fmt: skip
    elif arguments.part in ("encode8", "encode16"):
        import demo_vae

        spatial = int(arguments.part[6:])
        demo_vae.encode(arguments.weights / f"vae{spatial}", spatial, arguments.clips, arguments.names,
                        arguments.latents, device)  # fmt: skip
    else:
        import demo_flow

        demo_flow.main(arguments, device)


if __name__ == "__main__":
    main()
