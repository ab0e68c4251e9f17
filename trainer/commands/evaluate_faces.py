"""`python -m trainer evaluate-faces`: the quality of AnimeDiffusion models in numbers, side by side.

Every picture of a held-out folder is taken apart into lines (XDoG) and a reference, and put together again:
    self      reference = the picture itself (the paper's self reconstruction)
    warped    reference = the picture warped as in training
    other     reference = reference/<name>, another face in the same colours (`demo-faces --references`)
    shuffled  reference = another picture of the folder; there is no true answer
For the first three: PSNR and MS-SSIM against the picture. For all: edge F1, how well the result's edges fall on the
drawing's lines, and `copied`, the PSNR of the result against its reference, which is high where the network copies the
reference whatever the lines say. With --inception, FID of the shuffled results against the pictures (the paper's).
All models see the same references, lines and noise; intervals are 95 % bootstrap over the pictures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from colorize.animediffusion.sampling import deterministic_forward, sample_ddim, sample_ddpm
from colorize.animediffusion.schedule import AnimeSchedule
from colorize.animediffusion.unet import AnimeUNet, attention_heads, load_network
from colorize.sketch.extractors.xdog import XDoG, xdog
from trainer.config import ConfigError
from trainer.data import decode, diagonal_warp
from trainer.data.sources import SUFFIXES
from trainer.draws import Draws
from trainer.metrics.edges import edge_f1
from trainer.metrics.frechet import frechet_distance, frechet_interval, inception
from trainer.metrics.intervals import interval
from trainer.metrics.similarity import ms_ssim, psnr
from trainer.models import checkpoint
from trainer.pictures import contact_sheet, picture

PROTOCOLS = ("self", "warped", "other", "shuffled")
SAMPLERS = ("ddim", "ddpm")
DDPM_STEPS = 1000
LINE_SIGMA = 0.4  # the middle one of training
SHEET_ROWS = 6


@dataclass(frozen=True)
class Sampling:
    """How a picture is made."""

    steps: int = 10
    eta: float = 0.0
    start: str = "noise"
    """noise, or reference: the reference's deterministic forward walk"""
    sampler: str = "ddim"
    """of SAMPLERS; ddpm walks every step of the schedule, from noise (the paper's rows without phase 2)"""

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"--eta is a share between 0 and 1, not {self.eta}.")
        if self.sampler == "ddpm" and (self.steps, self.eta, self.start) != (DDPM_STEPS, 0.0, "noise"):
            raise ConfigError(
                f"--sampler ddpm takes all {DDPM_STEPS} steps from noise, with its own noise at each: leave --steps, "
                "--eta and --start out."
            )
        if self.sampler == "ddim" and not 1 <= self.steps <= 999:
            raise ConfigError("--steps must be 1 to 999.")


def sampling_of(sampler: str, steps: int | None, eta: float, start: str) -> Sampling:
    """How pictures are made, as the command line says it. steps None: 10 of ddim, all of ddpm. ConfigError."""
    usual = DDPM_STEPS if sampler == "ddpm" else 10
    return Sampling(usual if steps is None else steps, eta, start, sampler)


def load(path: str, device: torch.device) -> AnimeUNet:
    """An AnimeDiffusion network in any known layout, float32. Raises ConfigError."""
    tensors, metadata = checkpoint.read_tensors(Path(path))
    try:
        heads = attention_heads(tensors, metadata)
        return load_network({k: v.float() for k, v in tensors.items()}, heads).to(device)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


@torch.no_grad()
def colour(
    network: AnimeUNet,
    lines: torch.Tensor,
    references: torch.Tensor,
    sampling: Sampling,
    generator: torch.Generator,
) -> torch.Tensor:
    """Lines (B, 1, H, W), black (-1) on white, and references (B, 3, H, W) in -1..1 -> pictures (B, 3, H, W)."""
    schedule = AnimeSchedule()
    condition = torch.cat([lines, references], dim=1)

    def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return network(torch.cat([x, condition], dim=1), t).float()

    def noise(_: int) -> torch.Tensor:
        return torch.randn(references.shape, generator=generator).to(references)

    start = noise(0)
    if sampling.sampler == "ddpm":
        return sample_ddpm(predict, start, schedule, noise)
    if sampling.start == "reference":
        start = deterministic_forward(predict, references, schedule, sampling.steps)
    return sample_ddim(predict, start, schedule, sampling.steps, sampling.eta, noise)


def read_folder(folder: Path, count: int, size: int | None) -> tuple[list[str], torch.Tensor]:
    """Names and pictures (N, 3, S, S) uint8 of the first `count` files; size None takes the first picture's."""
    files = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES)[:count]
    if len(files) < count:
        raise ConfigError(f"{folder} holds {len(files)} pictures, {count} are asked for; add some, or lower --count.")
    size = size or min(decode.read_given(files[0]).size)
    squares = [np.array(decode.read_given(file, size, decode.BILINEAR)) for file in files]
    return [file.stem for file in files], torch.from_numpy(np.stack(squares)).movedim(-1, 1)


def drawn_lines(truth: torch.Tensor) -> torch.Tensor:
    """Pictures (B, 3, H, W) in -1..1 -> their XDoG lines (B, 1, H, W), black on white."""
    return -xdog(truth, XDoG(sigma=LINE_SIGMA))


def references_of(protocol: str, colours: torch.Tensor, names: list[str], data: Path, draws: Draws) -> torch.Tensor:
    """The references (N, 3, S, S) uint8 of a protocol."""
    if protocol == "self":
        return colours
    if protocol == "warped":
        return diagonal_warp.warp(colours, *diagonal_warp.draw_points(len(colours), draws))
    if protocol == "shuffled":
        return colours.roll(1, dims=0)
    files = [data / "reference" / f"{name}.png" for name in names]
    if missing := [file for file in files if not file.is_file()]:
        raise ConfigError(
            f"{missing[0]} does not exist: protocol other needs a reference for each picture "
            "(`python -m trainer demo-faces --references` draws them)."
        )
    squares = [np.array(decode.read_given(file, colours.shape[-1], decode.BILINEAR)) for file in files]
    return torch.from_numpy(np.stack(squares)).movedim(-1, 1)


def scores(
    results: torch.Tensor, truth: torch.Tensor, lines: torch.Tensor, references: torch.Tensor, protocol: str
) -> dict[str, torch.Tensor]:
    """Numbers (B,) of results (B, 3, H, W) by name."""
    found = {"edges": edge_f1(results, lines)}
    if protocol != "shuffled":
        found |= {"psnr": psnr(results, truth), "ms_ssim": ms_ssim(results, truth)}
    if protocol != "self":
        found["copied"] = psnr(results, references)
    return found


def measure(
    networks: dict[str, AnimeUNet],
    colours: torch.Tensor,
    references: torch.Tensor,
    protocol: str,
    sampling: Sampling,
    batch: int,
    seed: int,
    precision: str,
    device: torch.device,
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, torch.Tensor], np.ndarray]:
    """-> numbers (N,) by network and name; results (N, 3, H, W) by network; a sheet of the first rows."""
    values: dict[str, dict[str, list]] = {name: {} for name in networks}
    results: dict[str, list] = {name: [] for name in networks}
    rows: list[torch.Tensor] = []
    for start in tqdm(range(0, len(colours), batch), unit="batch", desc=protocol, leave=False):
        truth, shown = (picture(part[start : start + batch]).to(device) for part in (colours, references))
        lines = drawn_lines(truth)
        columns = [lines, shown]
        for name, network in networks.items():
            generator = torch.Generator().manual_seed(seed + start)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                made = colour(network, lines, shown, sampling, generator).float().clamp(-1, 1)
            for kind, numbers in scores(made, truth, lines, shown, protocol).items():
                values[name].setdefault(kind, []).append(numbers.cpu().numpy())
            results[name].append(made.cpu())
            columns.append(made)
        if start == 0:
            rows = [column[:SHEET_ROWS] for column in [*columns, truth]]
    joined = {name: {kind: np.concatenate(parts) for kind, parts in kinds.items()} for name, kinds in values.items()}
    return joined, {name: torch.cat(parts) for name, parts in results.items()}, contact_sheet(rows)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", nargs="+", required=True, help="AnimeDiffusion models to compare")
    parser.add_argument("--data", required=True, help="folder with color/, and reference/ for protocol other")
    parser.add_argument("--protocol", nargs="+", choices=PROTOCOLS, default=["self", "warped", "shuffled"])
    parser.add_argument("--start", choices=("noise", "reference"), default="noise", help="what sampling starts from")
    parser.add_argument(
        "--sampler",
        choices=SAMPLERS,
        default="ddim",
        help="ddpm: the full chain of 1000 steps, as the paper's rows without phase 2 (about a hundred times the time)",
    )
    parser.add_argument("--steps", type=int, help="DDIM steps (default 10)")
    parser.add_argument("--eta", type=float, default=0.0, help="share of fresh noise per step, 0..1 (default 0)")
    parser.add_argument("--count", type=int, default=128, help="pictures to measure (default 128)")
    parser.add_argument("--size", type=int, help="side in pixels (default: the first picture's shorter side)")
    parser.add_argument("--inception", help="Inception v3 file, for FID of the shuffled results")
    parser.add_argument("--output", default="evaluation", help="folder for report.json and a sheet per protocol")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")


def run(args: argparse.Namespace) -> None:
    """Measure, print a table, write report.json and sheets (lines, reference, a column per model, true picture)."""
    sampling = sampling_of(args.sampler, args.steps, args.eta, args.start)
    if args.count < 2 or args.batch < 1:
        raise ConfigError("--count must be at least 2, --batch at least 1.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    networks = {Path(path).stem: load(path, device) for path in args.checkpoint}
    if len(networks) < len(args.checkpoint):
        raise ConfigError("Two of the checkpoints have the same file name; rename one, the table names them by it.")
    names, colours = read_folder(Path(args.data, "color"), args.count, args.size)
    multiple = max(network.config.multiple for network in networks.values())
    if colours.shape[-1] % multiple:
        raise ConfigError(f"The pictures are {colours.shape[-1]} pixels wide; choose a --size divisible by {multiple}.")
    features = inception(args.inception, device) if args.inception else None
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    report = {"settings": {k: v for k, v in vars(args).items() if k not in ("output", "command")}, "protocols": {}}
    report["settings"]["steps"] = sampling.steps
    report["settings"]["checkpoint"] = list(networks)
    report["settings"]["data"] = Path(args.data).name
    for protocol in dict.fromkeys(args.protocol):
        references = references_of(protocol, colours, names, Path(args.data), Draws.plain(args.seed))
        values, results, sheet = measure(
            networks, colours, references, protocol, sampling, args.batch, args.seed, args.precision, device
        )
        Image.fromarray(sheet).save(output / f"{protocol}.png")
        found = {name: {kind: _mean(numbers) for kind, numbers in kinds.items()} for name, kinds in values.items()}
        if protocol == "shuffled" and features is not None:
            extract, title = features
            theirs = _features(extract, picture(colours), args.batch)
            for name, made in results.items():
                ours = _features(extract, made, args.batch)
                low, high = frechet_interval(ours, theirs)
                found[name][title] = {"mean": frechet_distance(ours, theirs), "95": [low, high]}
        report["protocols"][protocol] = found
        print(table(protocol, found))
    (output / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")


def _mean(numbers: np.ndarray) -> dict:
    return {"mean": float(np.mean(numbers)), "95": list(interval(numbers, np.mean))}


def _features(extract: Callable[[torch.Tensor], torch.Tensor], pictures: torch.Tensor, batch: int) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([extract(part).float().cpu() for part in pictures.split(batch)])


def table(protocol: str, found: dict[str, dict]) -> str:
    """A protocol's numbers as text, a row per model."""
    kinds = list(next(iter(found.values())))
    lines = [f"{protocol:30}" + "".join(f"{kind:>26}" for kind in kinds)]
    for name, numbers in found.items():
        cells = (
            f"{numbers[kind]['mean']:.3f} ({numbers[kind]['95'][0]:.3f}..{numbers[kind]['95'][1]:.3f})"
            for kind in kinds
        )
        lines.append(f"{name:30}" + "".join(f"{cell:>26}" for cell in cells))
    return "\n".join(lines)
