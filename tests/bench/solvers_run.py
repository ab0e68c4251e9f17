"""Colours pairs with ComfyUI's samplers, inside a process with ComfyUI and the pack (started by solvers.py)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import comfy.sample
import numpy as np
import torch
from PIL import Image

from ..golden.ours import ours


def read(file: Path) -> torch.Tensor:
    """(3, H, W) in 0..1."""
    return torch.from_numpy(np.array(Image.open(file).convert("RGB"))).movedim(-1, 0).float() / 255


class Colouring:
    """The bundled model with the pairs of a folder, encoded once."""

    def __init__(self, job: dict) -> None:
        folder = Path(job["pairs"])
        self.model, self.vae, self.control, _ = ours("model_patches.checkpoint.loading").load_checkpoint(
            job["checkpoint"]
        )
        encoder = ours("model_patches.reference.encoder").load_encoder(job["encoder"])
        self.names = sorted(path.stem for path in (folder / "sketch").glob("*.png"))
        self.sketches = torch.stack([1 - read(folder / "sketch" / f"{name}.png") for name in self.names])
        references = [read(folder / "reference" / f"{name}.png")[None] * 2 - 1 for name in self.names]
        self.tokens = torch.cat([encoder.encode(one).local_tokens for one in references])
        latents = torch.zeros(len(self.names), 4, *(side // 8 for side in self.sketches.shape[-2:]))
        self.noise = torch.cat(
            [comfy.sample.prepare_noise(one[None], job["seed"] + place) for place, one in enumerate(latents)]
        )

    def made(self, rows: slice, setting: dict, seed: int) -> tuple[torch.Tensor, int]:
        """Pictures (b, H, W, 3) in 0..1 of the pairs in `rows`, and how many rows a picture took in the network."""
        tokens, noise, calls = self.tokens[rows], self.noise[rows], []

        def count(apply, arguments):
            calls.append(len(arguments["input"]))
            return apply(arguments["input"], arguments["timestep"], **arguments["c"])

        model = self.model.clone()
        model.set_model_unet_function_wrapper(count)
        extra = {"control": self.control.copy().set_cond_hint(self.sketches[rows]), "control_apply_to_uncond": False}
        latents = comfy.sample.sample(
            model,
            noise,
            setting["steps"],
            setting["guidance"],
            setting["sampler"],
            setting["scheduler"],
            [[tokens, extra]],
            [[torch.zeros_like(tokens), extra]],
            torch.zeros_like(noise),
            disable_pbar=True,
            seed=seed,
        )
        return self.vae.decode(latents).clamp(0, 1), sum(calls) // len(noise)


def main(arguments: Sequence[str]) -> None:
    job = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    results = Path(job["results"])
    todo = [setting for setting in job["plan"] if not (results / setting["name"] / "passes.json").is_file()]
    if not todo:
        return
    with torch.inference_mode():
        colouring = Colouring(job)
        for setting in todo:
            folder = results / setting["name"]
            folder.mkdir(parents=True, exist_ok=True)
            for start in range(0, len(colouring.names), job["batch"]):
                rows = slice(start, start + job["batch"])
                pictures, passes = colouring.made(rows, setting, job["seed"])
                for name, values in zip(colouring.names[rows], pictures, strict=True):
                    Image.fromarray((values.numpy() * 255).round().astype("uint8")).save(folder / f"{name}.png")
            (folder / "passes.json").write_text(str(passes), encoding="utf-8")
            print(f"{setting['name']}: {passes} passes", flush=True)
