"""`python -m tests.bench train`: our training loop, with and without cached encodings, beside a plain PyTorch loop.

The plain loop is the shortest one that trains the same networks on the same pictures: tensors that lie ready on the
device, no sampler, no average, no log. What ours costs on top is the price of reading, resuming and reporting.
Tiny sizes by default, for a CPU; on a GPU:
    python -m tests.bench train --released --size 512 --batch 8 --steps 40
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from colorize.reference.vision import ReferenceEncoder
from colorize.sampling.schedule import NoiseSchedule
from colorize.tiny_vae import TinyVAE
from trainer import config as configuration
from trainer.models import autoencoder
from trainer.models.colorizer import read_encoder
from trainer.pictures import model_sketch, picture
from trainer.run import loop
from trainer.run.datasets import build_dataset
from trainer.run.run import arithmetic
from trainer.stages.v1 import new_networks

SMALL = ReferenceEncoder(32, 8, 64, 2, 16, 64)
PICTURES = 16


def write_pictures(folder: Path, size: int) -> None:
    """Noise in blocks: a reader has to decode it, and nobody looks at it."""
    random = np.random.default_rng(0)
    for part in ("color", "sketch"):
        (folder / part).mkdir(parents=True)
        for number in range(PICTURES):
            blocks = random.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
            Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(folder / part / f"{number:03d}_0.png")


def write_frozen(folder: Path, released: bool) -> dict[str, str]:
    """Random weights for the autoencoder and the reference encoder (released: as large as ViT-H/14)."""
    torch.manual_seed(0)
    encoder = ReferenceEncoder(224, 14, 1280, 32, 80, 1024) if released else SMALL
    save_file(TinyVAE().state_dict(), folder / "vae.safetensors")
    header = {"colorize.head_width": "80" if released else "16"}
    save_file(encoder.state_dict(), folder / "encoder.safetensors", metadata=header)
    return {name: str(folder / f"{name}.safetensors") for name in ("vae", "encoder")}


def configured(options: argparse.Namespace, scratch: Path, files: dict[str, str], cache: bool, turn: int):
    """The run's configuration."""
    sizes = {"model_channels": options.width}
    if not options.released:
        sizes |= {"channel_mult": [1, 1, 1, 2], "num_head_channels": 32}
    return configuration.build(
        {
            "run": {"output": str(scratch / f"run-{cache}-{turn}"), "steps": options.steps},
            "model": {**files, **sizes},
            "data": {"folder": str(scratch / "data"), "size": options.size, "reference": "self", "cache": cache,
                     "workers": options.workers},
            "optimizer": {"batch": options.batch, "lr": 1e-5},
            "system": {"precision": options.precision, "gradient_checkpointing": options.checkpointing,
                       "compile": options.compile, "peak_tflops": options.peak_tflops},
            # The second half is measured: by then every picture was seen once, so a cache is full.
            "report": {"log_every": options.steps // 2, "sample_every": 0, "save_every": 10 * options.steps},
        }
    )  # fmt: skip


def ours(config: configuration.Config) -> dict[str, float]:
    """The last line of the log of a run."""
    from accelerate.state import AcceleratorState, GradientState

    exported = loop.train(config)
    AcceleratorState._reset_state(reset_partial_state=True)  # accelerate keeps one per process
    GradientState._reset_state()
    return json.loads((exported.parent / "log.jsonl").read_text().splitlines()[-1])


def plain(config: configuration.Config) -> dict[str, float]:
    """Seconds of a step of the plain loop, from its second half."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder, vae = (network.to(device) for network in (
        read_encoder(config.model.encoder), autoencoder.load(config.model.vae)))  # fmt: skip
    torch.manual_seed(0)
    unet, sketch_encoder = (network.to(device) for network in new_networks(config, encoder.output_dim))
    unet.gradient_checkpointing = config.system.gradient_checkpointing
    parameters = [*unet.parameters(), *sketch_encoder.parameters()]
    optimizer, schedule = torch.optim.AdamW(parameters, lr=1e-5, fused=True), NoiseSchedule().to(device)
    dataset, batch = build_dataset(config), config.optimizer.batch
    rows = torch.utils.data.default_collate([dataset[n] for n in range(batch)])
    colors, references, sketches = (rows[name].to(device) for name in ("color", "reference", "sketch"))
    for network in (unet, sketch_encoder, vae, encoder):
        network.to(memory_format=torch.channels_last)
    if config.system.compile:
        unet.compile(backend=config.system.compile)
        sketch_encoder.compile(backend=config.system.compile)

    @torch.no_grad()
    def encode() -> tuple[torch.Tensor, torch.Tensor]:
        with arithmetic(config, device):
            latents = vae.encode(picture(colors)).float()
        return latents, encoder.encode(picture(references))[:, 1:]

    kept = encode() if config.data.cache else None
    for step in range(config.run.steps):
        if step == config.run.steps // 2:
            _wait(device)
            begin = time.perf_counter()
        latents, tokens = kept or encode()
        t = torch.randint(0, schedule.steps, (batch,), device=device)
        noise = torch.randn_like(latents)
        with arithmetic(config, device):
            answer = unet(schedule.add_noise(latents, noise, t), t, tokens, sketch_encoder(model_sketch(sketches)))
        F.mse_loss(answer.float(), schedule.velocity(latents, noise, t)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    _wait(device)
    seconds = (time.perf_counter() - begin) / (config.run.steps - config.run.steps // 2)
    return {"s_per_step": seconds, "images_per_s": batch / seconds}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench train", description=__doc__.splitlines()[0])
    parser.add_argument("--released", action="store_true", help="sizes of the released v1 and of ViT-H/14")
    parser.add_argument("--width", type=int, help="channels of the U-Net's first level (default 64; released 320)")
    parser.add_argument("--size", type=int, default=128, help="side of the pictures in pixels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2 * PICTURES, help="of every run; the second half is measured")
    parser.add_argument("--turns", type=int, default=2, help="runs of each kind, taken in turns")
    parser.add_argument("--workers", type=int, default=0, help="reading processes")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--checkpointing", action="store_true", help="recompute blocks in the backward pass")
    parser.add_argument("--compile", default="", help="backend of torch.compile")
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="of the device, where the table lacks it")
    options = parser.parse_args(arguments)
    if options.steps * options.batch < 2 * PICTURES:
        parser.error(f"--steps x --batch must be {2 * PICTURES} at least: the first half fills the cache")
    options.width = options.width or (320 if options.released else 64)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"train: {device}; width {options.width}, {options.size} px, batches of {options.batch}, {options.precision}")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        write_pictures(scratch / "data", options.size)
        files = write_frozen(scratch, options.released)
        for cache in (True, False):
            lines: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}
            for turn in range(options.turns):
                config = configured(options, scratch, files, cache, turn)
                order = ((ours, "ours"), (plain, "plain"))
                for measure, name in order if turn % 2 == 0 else reversed(order):
                    lines[name].append(measure(config))
            _tell("cached encodings" if cache else "encoders in every step", lines)
    return 0


def _tell(title: str, lines: dict[str, list[dict[str, float]]]) -> None:
    rates = {name: statistics.median(line["images_per_s"] for line in found) for name, found in lines.items()}
    told = f"train: {title}: {rates['ours']:.2f} images/s, plain loop {rates['plain']:.2f}"
    last = lines["ours"][-1]
    told += f"; ratio {rates['ours'] / rates['plain']:.3f}; waiting for data {last['data_wait']:.1%}"
    told += f", peak memory {last['peak_gib']:.1f} GiB"
    print(told + (f", utilisation {last['utilisation']:.1%}" if "utilisation" in last else ""))
