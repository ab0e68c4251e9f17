"""`python -m tests.bench gram`: a training step of stage xl with the Gram loss against one without it.

Forward and backward pass on the narrow model of the preset demo-xl, alternating in one process. Memory is what the
backward pass keeps (counted by autograd's hooks) with weights, gradients and AdamW's moments; on a GPU the peak that
torch reports. Bars: 35 % time, 15 % memory (paper: 30 and 10).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from colorize.reference.vision import ReferenceEncoder
from colorize.tiny_vae import TinyVAE
from trainer import config as configuration
from trainer.commands.tiny_tagger import tiny_tagger
from trainer.draws import Draws
from trainer.losses.gram import HOOKS
from trainer.models import checkpoint
from trainer.run.run import arithmetic
from trainer.stages.table import build_stage

from .measure import paired


def stage_of(scratch: Path, weight: float, options: argparse.Namespace, device: torch.device):
    """Stage xl at the preset's sizes with random encoders; the same weights whatever `weight` of the Gram loss."""
    files = {name: str(scratch / f"{name}.safetensors") for name in ("vae", "encoder", "tagger")}
    torch.manual_seed(0)
    save_file(TinyVAE().state_dict(), files["vae"])
    encoder = ReferenceEncoder(112, 8, 192, 4, 64, 192)
    save_file(encoder.state_dict(), files["encoder"], metadata={"colorize.head_width": "64"})
    checkpoint.write_tensors(Path(files["tagger"]), *tiny_tagger())
    overrides = [part for name, path in files.items() for part in (f"--model.{name}", path)]
    overrides += ["--gram.weight", str(weight), "--gram.start", "0", "--gram.other", "batch"]
    overrides += ["--gram.blocks", options.blocks, "--data.size", str(options.size)]
    overrides += ["--optimizer.batch", str(options.batch)]
    config = configuration.load(options.preset, [*overrides, "--system.precision", options.precision])
    torch.manual_seed(0)
    return build_stage(config, device).to(device)


def batch_of(stage, options: argparse.Namespace, device: torch.device) -> dict[str, torch.Tensor]:
    """Noise instead of pictures; what the encoders say of it is remembered, as with data.cache."""
    torch.manual_seed(1)

    def pixels(channels):
        return torch.randint(0, 256, (options.batch, channels, options.size, options.size), dtype=torch.uint8)

    numbers = torch.arange(options.batch)
    size = torch.tensor([[options.size] * 3] * options.batch).float()
    batch = {"color": pixels(3), "sketch": pixels(1), "reference": pixels(3), "index": numbers}
    batch |= {"reference_index": numbers, "size": size, "score": torch.full((options.batch,), 6.0)}
    return {name: values.to(device) for name, values in batch.items()}


def kept_bytes(step, stage) -> int:
    """Bytes of tensors that the backward pass of `step` keeps, without the parameters themselves."""
    own, seen = {p.untyped_storage().data_ptr() for p in stage.parameters()}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step(backward=False)
    total = sum(seen.values())
    del loss
    return total


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench gram")
    parser.add_argument("--preset", default="demo-xl")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--blocks", default="last", choices=HOOKS, help="as gram.blocks; the bars are for last")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps, kept, peaks = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        for weight in (1.0, 0.0):
            stage = stage_of(Path(scratch), weight, options, device)
            batch = batch_of(stage, options, device)

            def step(backward=True, stage=stage, batch=batch):
                with arithmetic(stage.config, device):
                    loss = sum(stage(batch, Draws(0, 0, range(options.batch)), 1.0).values())
                if backward:
                    loss.backward()
                    stage.zero_grad()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                return loss

            step()
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
                step()
                peaks.append(torch.cuda.max_memory_allocated())
            states = 16 * sum(p.numel() for p in stage.parameters())  # weight, gradient and two moments, fp32
            kept.append(kept_bytes(step, stage) + states)
            steps.append(step)
        ratio = paired(*steps, options.repeats)
    print(f"gram: step with the Gram loss against one without: {ratio}. Bar: 1.35")
    with_gram, without = peaks or kept
    print(f"gram: memory {with_gram / 2**20:.0f} MiB against {without / 2**20:.0f} MiB: "
          f"{with_gram / without:.3f}. Bar: 1.15")  # fmt: skip
    return 0
