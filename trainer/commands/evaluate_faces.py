"""`python -m trainer evaluate-faces`: the quality of AnimeDiffusion models in numbers, side by side.

Every picture of a held-out folder is taken apart into lines (XDoG) and a reference, and put together again:
    self      reference = the picture itself (the paper's self reconstruction)
    warped    reference = the picture warped as in training
    other     reference = reference/<name>, another face in the same colours (`demo-faces --references`)
    shuffled  reference = another picture of the folder; there is no true answer
For the first three: PSNR and MS-SSIM against the picture. For all: edge F1, how well the result's edges fall on the
drawing's lines, and `copied`, the PSNR of the result against its reference, which is high where the network copies the
reference whatever the lines say. With --inception, FID of the shuffled results against the pictures (the paper's).
All models see the same references, lines and noise; intervals are 95 % bootstrap over the pictures (--intervals pairs:
not of FID; none). Stopped, the same command goes on with the batch that was not done.

report.json is JSON as the standard has it: a number that is not finite is null. The PSNR of a result that equals its
picture to the bit is infinite, and so are a mean with one of these and its bounds.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from colorize.animediffusion.markers import MOST_STEPS, attention_heads, chain_steps
from colorize.animediffusion.sampling import deterministic_forward, sample_ddim, sample_ddpm
from colorize.animediffusion.schedule import AnimeSchedule
from colorize.animediffusion.unet import AnimeUNet, load_network
from colorize.sketch.extractors.xdog import XDoG, xdog
from trainer import workers
from trainer.config import ConfigError
from trainer.data import decode, diagonal_warp
from trainer.data.sources import SUFFIXES
from trainer.draws import Draws
from trainer.evaluate.parts import Numbers, Parts, identity
from trainer.evaluate.report import INTERVALS
from trainer.json_file import write_report
from trainer.metrics.edges import edge_f1
from trainer.metrics.frechet import Features, frechet_distance, frechet_interval, inception
from trainer.metrics.intervals import interval
from trainer.metrics.similarity import ms_ssim, psnr
from trainer.models import checkpoint
from trainer.models.precision import for_device
from trainer.pictures import contact_sheet, picture

PROTOCOLS = ("self", "warped", "other", "shuffled")
SAMPLERS = ("ddim", "ddpm")
DDPM_STEPS = 1000
LINE_SIGMA = 0.4  # the middle one of training
SHEET_ROWS = 6


@dataclass(frozen=True)
class Sampling:
    """How a picture is made."""

    steps: int | None = None
    """None: as many as phase 2 trained the network for, all of ddpm"""
    eta: float = 0.0
    start: str = "noise"
    """noise, or reference: the reference's deterministic forward walk"""
    sampler: str = "ddim"
    """of SAMPLERS; ddpm walks every step of the schedule, from noise (the paper's rows without phase 2)"""

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"--eta is a share between 0 and 1, not {self.eta}.")
        if self.sampler == "ddpm" and (self.steps or DDPM_STEPS, self.eta, self.start) != (DDPM_STEPS, 0.0, "noise"):
            raise ConfigError(
                f"--sampler ddpm takes all {DDPM_STEPS} steps from noise, with its own noise at each: leave --steps, "
                "--eta and --start out."
            )
        if self.sampler == "ddim" and self.steps is not None and not 1 <= self.steps <= MOST_STEPS:
            raise ConfigError(f"--steps must be 1 to {MOST_STEPS}.")

    def steps_of(self, model: FaceModel) -> int:
        """How many steps a model's pictures take."""
        return self.steps or (DDPM_STEPS if self.sampler == "ddpm" else model.steps)


@dataclass(frozen=True)
class FaceModel:
    """An AnimeDiffusion file."""

    network: AnimeUNet
    steps: int
    """of DDIM, that it was trained for"""


def load(path: str, device: torch.device) -> FaceModel:
    """An AnimeDiffusion network in any known layout, float32. Raises ConfigError."""
    tensors, metadata = checkpoint.read_tensors(Path(path))
    try:
        heads = attention_heads(tensors, metadata)
        network = load_network({k: v.float() for k, v in tensors.items()}, heads).to(device)
        return FaceModel(network, chain_steps(tensors, metadata))
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


@torch.no_grad()
def colour(
    model: FaceModel,
    lines: torch.Tensor,
    references: torch.Tensor,
    sampling: Sampling,
    generator: torch.Generator,
) -> torch.Tensor:
    """Lines (B, 1, H, W), black (-1) on white, and references (B, 3, H, W) in -1..1 -> pictures (B, 3, H, W)."""
    schedule, steps = AnimeSchedule(), sampling.steps_of(model)
    condition = torch.cat([lines, references], dim=1)

    def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return model.network(torch.cat([x, condition], dim=1), t).float()

    def noise(_: int) -> torch.Tensor:
        return torch.randn(references.shape, generator=generator).to(references)

    start = noise(0)
    if sampling.sampler == "ddpm":
        return sample_ddpm(predict, start, schedule, noise)
    if sampling.start == "reference":
        start = deterministic_forward(predict, references, schedule, steps)
    return sample_ddim(predict, start, schedule, steps, sampling.eta, noise)


def files_of(folder: Path, count: int) -> list[Path]:
    """The first `count` pictures of a folder."""
    files = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES)[:count]
    if len(files) < count:
        raise ConfigError(f"{folder} holds {len(files)} pictures, {count} are asked for; add some, or lower --count.")
    return files


def read_squares(files: Sequence[Path], size: int | None = None) -> torch.Tensor:
    """Pictures (N, 3, S, S) uint8; size None takes the first picture's."""
    size = size or min(decode.read_given(files[0]).size)
    squares = [np.array(decode.read_given(file, size, decode.BILINEAR)) for file in files]
    return torch.from_numpy(np.stack(squares)).movedim(-1, 1)


def drawn_lines(truth: torch.Tensor) -> torch.Tensor:
    """Pictures (B, 3, H, W) in -1..1 -> their XDoG lines (B, 1, H, W), black on white."""
    return -xdog(truth, XDoG(sigma=LINE_SIGMA))


def references_of(protocol: str, colours: torch.Tensor, files: Sequence[Path], draws: Draws) -> torch.Tensor:
    """The references (N, 3, S, S) uint8 of a protocol. files: those that protocol other reads."""
    if protocol == "self":
        return colours
    if protocol == "warped":
        return diagonal_warp.warp(colours, *diagonal_warp.draw_points(len(colours), draws))
    if protocol == "shuffled":
        return colours.roll(1, dims=0)
    if missing := [file for file in files if not file.is_file()]:
        raise ConfigError(
            f"{missing[0]} does not exist: protocol other needs a reference for each picture "
            "(`python -m trainer demo-faces --references` draws them)."
        )
    return read_squares(files, colours.shape[-1])


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


@dataclass(frozen=True)
class Faces:
    """What is the same for all protocols."""

    models: Mapping[str, FaceModel]
    """by the name of their file"""
    colours: torch.Tensor
    """(N, 3, S, S) uint8: the true pictures"""
    sampling: Sampling
    batch: int
    seed: int
    precision: str
    device: torch.device
    features: tuple[Features, str] | None = None
    """Inception, and what its distance is called"""

    def batch_of(
        self, start: int, references: torch.Tensor, protocol: str
    ) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, torch.Tensor], np.ndarray]:
        """-> numbers by network and name; what the networks share; a sheet of the first rows."""
        truth, shown = (
            picture(part[start : start + self.batch]).to(self.device) for part in (self.colours, references)
        )
        lines = drawn_lines(truth)
        extract, title = self.features if self.features and protocol == "shuffled" else (None, "")
        values, columns = {}, [lines, shown]
        for name, model in self.models.items():
            generator = torch.Generator().manual_seed(self.seed + start)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                made = colour(model, lines, shown, self.sampling, generator).float().clamp(-1, 1)
            values[name] = {kind: each.cpu() for kind, each in scores(made, truth, lines, shown, protocol).items()}
            if extract is not None:
                values[name][f"{title}:result"] = _rows(extract, made)
            columns.append(made)
        common = {} if extract is None else {f"{title}:truth": _rows(extract, truth)}
        return values, common, contact_sheet([column[:SHEET_ROWS] for column in [*columns, truth]])


def measure(task: Faces, references: torch.Tensor, protocol: str, parts: Parts) -> dict[str, Numbers]:
    """Numbers of all pictures by network. Batches that `parts` holds are not made again."""
    starts = range(0, len(task.colours), task.batch)
    left = [start for start in starts if not parts.holds(start)]
    for start in tqdm(left, unit="batch", desc=protocol, leave=False):
        values, common, sheet = task.batch_of(start, references, protocol)
        parts.write(start, values, common, sheet if start == 0 else None)
    return parts.read(starts)


@torch.no_grad()
def _rows(extract: Features, pictures: torch.Tensor) -> torch.Tensor:
    return extract(pictures.cpu()).float().cpu()


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
    parser.add_argument("--steps", type=int, help="DDIM steps (default: as each file says, else 10)")
    parser.add_argument("--eta", type=float, default=0.0, help="share of fresh noise per step, 0..1 (default 0)")
    parser.add_argument("--count", type=int, default=128, help="pictures to measure (default 128)")
    parser.add_argument("--size", type=int, help="side in pixels (default: the first picture's shorter side)")
    parser.add_argument("--inception", help="Inception v3 file, for FID of the shuffled results")
    parser.add_argument(
        "--intervals",
        choices=INTERVALS,
        default="all",
        help="pairs: not of FID, whose interval costs 100 FIDs",
    )
    parser.add_argument("--output", default="evaluation", help="folder for report.json and a sheet per protocol")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")


def run(args: argparse.Namespace) -> None:
    """Measure, print a table, write report.json and sheets (lines, reference, a column per model, true picture)."""
    sampling = Sampling(args.steps, args.eta, args.start, args.sampler)
    if args.count < 2 or args.batch < 1:
        raise ConfigError("--count must be at least 2, --batch at least 1.")
    device = workers.device()
    args.precision = for_device(args.precision, device)
    models = {Path(path).stem: load(path, device) for path in args.checkpoint}
    if len(models) < len(args.checkpoint):
        raise ConfigError("Two of the checkpoints have the same file name; rename one, the table names them by it.")
    data, output = Path(args.data), Path(args.output)
    files = files_of(data / "color", args.count)
    colours = read_squares(files, args.size)
    multiple = max(model.network.config.multiple for model in models.values())
    if colours.shape[-1] % multiple:
        raise ConfigError(f"The pictures are {colours.shape[-1]} pixels wide; choose a --size divisible by {multiple}.")
    features = inception(args.inception, device) if args.inception else None
    task = Faces(models, colours, sampling, args.batch, args.seed, args.precision, device, features)
    output.mkdir(parents=True, exist_ok=True)
    report = {"settings": {k: v for k, v in vars(args).items() if k not in ("output", "command")}, "protocols": {}}
    report["settings"] |= {"checkpoint": list(models), "data": data.name}
    report["settings"] |= {"steps": {name: sampling.steps_of(model) for name, model in models.items()}}
    facts = {
        **{key: getattr(args, key) for key in ("count", "seed", "batch", "precision")},
        **{"size": colours.shape[-1], "sampling": asdict(sampling), "inception": identity(args.inception)},
        "checkpoints": [identity(path) for path in args.checkpoint],
    }
    done = []
    for protocol in dict.fromkeys(args.protocol):
        shown = [data / "reference" / f"{file.stem}.png" for file in files]
        references = references_of(protocol, colours, shown, Draws.plain(args.seed))
        read = [identity(file) for file in (*files, *(shown if protocol == "other" else ()))]
        parts = Parts(output / "parts", {**facts, "protocol": protocol, "data": read}, list(models))
        values = measure(task, references, protocol, parts)
        Image.fromarray(parts.sheets([0])[0]).save(output / f"{protocol}.png")
        found = {name: _summary(numbers, args.intervals) for name, numbers in values.items()}
        report["protocols"][protocol] = found
        print(table(protocol, found))
        done.append(parts)
    write_report(output / "report.json", report)
    for parts in done:
        parts.remove()


def _summary(numbers: Numbers, intervals: str) -> dict[str, dict]:
    """{"mean": ..., "95": [low, high]} of every number per picture, and the distance between features of sets."""
    found: dict[str, dict] = {}
    for name, value in numbers.items():
        kind, _, which = name.partition(":")
        if which == "result":
            found[kind] = {"mean": frechet_distance(value, numbers[f"{kind}:truth"])}
            if intervals == "all":
                found[kind]["95"] = list(frechet_interval(value, numbers[f"{kind}:truth"]))
        elif isinstance(value, torch.Tensor):
            own = value.double().numpy()
            found[kind] = {"mean": float(own.mean())}
            if intervals != "none":
                found[kind]["95"] = list(interval(own, np.mean)) if np.isfinite(own).all() else [math.inf, math.inf]
    return found


def table(protocol: str, found: dict[str, dict]) -> str:
    """A protocol's numbers as text, a row per model."""
    kinds = list(next(iter(found.values())))
    lines = [f"{protocol:30}" + "".join(f"{kind:>26}" for kind in kinds)]
    for name, numbers in found.items():
        bounds = {kind: "{:.3f}..{:.3f}".format(*numbers[kind].get("95", (0.0, 0.0))) for kind in kinds}
        cells = (
            f"{numbers[kind]['mean']:.3f}" + (f" ({bounds[kind]})" if "95" in numbers[kind] else "") for kind in kinds
        )
        lines.append(f"{name:30}" + "".join(f"{cell:>26}" for cell in cells))
    return "\n".join(lines)
