"""AnimeDiffusion: ten steps through ComfyUI against the plain PyTorch loop over the same network."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ..golden.ours import ours
from .measure import paired

PACKAGE = "colorize.animediffusion"
STEPS = 10


def bench_anime(options: argparse.Namespace) -> None:
    """One picture with the published configuration (52 M values, random weights); `--size` sets its side."""
    unet, sampling, schedule = (ours(f"{PACKAGE}.{name}") for name in ("unet", "sampling", "schedule"))
    inside, walks = ours("model_patches.animediffusion.model"), ours("model_patches.animediffusion.sampling")
    torch.manual_seed(0)
    network = unet.AnimeUNet().eval()
    file = Path("anime_bench.pt").resolve()  # in the scratch folder of the process
    torch.save(network.state_dict(), file)
    model = inside.load_model_patcher(str(file))
    size = options.size
    lines, reference = (torch.rand(1, channels, size, size) * 2 - 1 for channels in (1, 3))
    positive = [[torch.zeros(1, 1, 1), {inside.LINES: lines, inside.REFERENCE: reference}]]
    walk, latent = walks.Walk(steps=STEPS), torch.zeros(1, 3, size, size)
    condition = torch.cat([lines, reference], dim=1)

    def in_comfyui() -> torch.Tensor:
        return walks.sample(model, positive, latent, walk, lambda picture, done, total: None)

    def plain() -> torch.Tensor:
        return sampling.sample_ddim(
            lambda x, t: network(torch.cat([x, condition], dim=1), t),
            walk.drawn(-1, [0], (3, size, size)),
            schedule.AnimeSchedule(),
            STEPS,
        )

    error = (in_comfyui() - plain()).abs().max().item()
    ratio = paired(in_comfyui, plain, options.repeats, warmup=0)
    print(f"anime: {STEPS} steps at {size} px in ComfyUI against the plain loop: {ratio}. Bar: 1.10")
    print(f"anime: the pictures differ by {error:.1e} of a range of 2")
