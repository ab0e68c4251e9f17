"""Quality of a colouriser on held-out pairs whose true answer is known (data of `demo-data --split heldout`).

Two numbers, each next to that of the same model run without a reference:
region colour error, how far the colour of every region (hair, eyes, ...) is from the true picture's, in CIE Lab; and
edge F1, how well the edges of the result fall on the lines of the sketch.

Region colour error is given over all regions, and over those whose colour the reference shows: nobody can know the
colour of a sleeve that is not in the reference. The latter is also split into figure and background, which tells
entanglement (colours and shapes of the reference's figure in the background, and the reverse).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm import tqdm

from trainer.colorizer import MODES, Colorizer
from trainer.config import ConfigError

SMALLEST_REGION = 0.002  # share of the picture; smaller regions have no colour worth measuring
SHOWN_PIXELS = 64  # of a 256 px reference, where it shows that much of a region it shows the region's colour
COLOURLESS = ("other", "lines")  # regions without one colour of their own
BACKGROUND = ("background", "background_second")
EDGE_TOLERANCE = 2  # pixels at 256 px; edges that close to a line count as on it
EDGE_THRESHOLD = 0.1  # gradient magnitude of the luma (0..1) that makes a pixel an edge


def lab(pictures: torch.Tensor) -> torch.Tensor:
    """sRGB (B, 3, H, W) in [-1, 1] -> CIE Lab, L 0..100."""
    from kornia.color import rgb_to_lab

    return rgb_to_lab(pictures.float().clamp(-1, 1) * 0.5 + 0.5)


def region_errors(result: torch.Tensor, truth: torch.Tensor, regions: torch.Tensor, count: int) -> torch.Tensor:
    """Distance in Lab (CIE76) between the median colours of each region, (B, count); NaN where a region is too small.

    result, truth (B, 3, H, W) in [-1, 1]; regions (B, 1, H, W) labels.
    """
    errors = torch.full((len(result), count), float("nan"))
    for row, (ours, wanted) in enumerate(zip(lab(result), lab(truth), strict=True)):
        for region in range(count):
            inside = regions[row, 0] == region
            if inside.float().mean() > SMALLEST_REGION:
                difference = ours[:, inside].median(dim=1).values - wanted[:, inside].median(dim=1).values
                errors[row, region] = difference.norm()
    return errors


def shown_regions(reference_regions: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
    """(B, count) booleans: whether references with these labels (B, 1, H, W) show the colour of each region."""
    least = SHOWN_PIXELS * reference_regions.shape[-1] * reference_regions.shape[-2] / 256**2
    shown = [
        (reference_regions == label).sum((1, 2, 3)) >= least
        if name not in COLOURLESS
        else torch.zeros(len(reference_regions), dtype=torch.bool, device=reference_regions.device)
        for label, name in enumerate(names)
    ]
    return torch.stack(shown, dim=1)


def edge_f1(result: torch.Tensor, sketch: torch.Tensor) -> torch.Tensor:
    """F1 (B,) of the edges of result (B, 3, H, W) against the dark lines of sketch (B, 1, H, W), both in [-1, 1]."""
    tolerance = max(1, round(EDGE_TOLERANCE * result.shape[-1] / 256))
    luma = (result * 0.5 + 0.5).clamp(0, 1).mean(1, keepdim=True)
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]).view(1, 1, 3, 3) / 4
    padded = F.pad(luma, (1, 1, 1, 1), mode="replicate")
    gradient = (F.conv2d(padded, kernel) ** 2 + F.conv2d(padded, kernel.transpose(2, 3)) ** 2).sqrt()
    edges, lines = (gradient > EDGE_THRESHOLD).float(), (sketch < 0).float()

    def near(mask: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(mask, 2 * tolerance + 1, 1, tolerance)

    def share(part: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
        return (part * whole).sum((1, 2, 3)) / whole.sum((1, 2, 3)).clamp_min(1)

    precision, recall = share(near(lines), edges), share(near(edges), lines)
    return 2 * precision * recall / (precision + recall).clamp_min(1e-6)


def interval(values: np.ndarray, statistic=np.median, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of a statistic over the first axis (pairs); NaN are left out of the statistic."""
    random = np.random.default_rng(seed)
    rows = random.integers(0, len(values), (draws, len(values)))
    estimates = []
    for chosen in rows:
        sample = values[chosen]
        estimates.append(statistic(sample[~np.isnan(sample)]))
    low, high = np.percentile(estimates, (2.5, 97.5))
    return float(low), float(high)


@dataclass(frozen=True)
class Result:
    """Per pair and region errors of both runs, per pair edge F1 of both runs, and what the references show."""

    errors: np.ndarray
    """(P, R) with the reference"""
    errors_blind: np.ndarray
    """(P, R) without"""
    edges: np.ndarray
    """(P,) with the reference"""
    edges_blind: np.ndarray
    """(P,) without"""
    shown: np.ndarray
    """(P, R) booleans of `shown_regions`"""

    def summary(self, names: tuple[str, ...]) -> dict:
        """The numbers of the README as nested dictionaries; sets of regions without any measured pair are left out."""

        def block(ours: np.ndarray, blind: np.ndarray) -> dict:
            both = np.stack([ours, blind], axis=-1)
            low, high = interval(both, lambda s: np.median(s.reshape(-1, 2)[:, 0]) / np.median(s.reshape(-1, 2)[:, 1]))
            return {
                "error": float(np.nanmedian(ours)),
                "error_without_reference": float(np.nanmedian(blind)),
                "ratio": float(np.nanmedian(ours) / np.nanmedian(blind)),
                "ratio_95": [low, high],
            }

        ours, blind = (np.where(self.shown, values, np.nan) for values in (self.errors, self.errors_blind))
        background = [r for r, name in enumerate(names) if name in BACKGROUND]
        figure = [r for r in range(len(names)) if r not in background]
        sets = {
            "all_regions": (self.errors, self.errors_blind),
            "shown_regions": (ours, blind),
            "shown_figure": (ours[:, figure], blind[:, figure]),
            "shown_background": (ours[:, background], blind[:, background]),
        }
        regions = {
            name: block(self.errors[:, r], self.errors_blind[:, r])
            for r, name in enumerate(names)
            if np.isfinite(self.errors[:, r]).sum() >= 5
        }
        ratios = self.edges / self.edges_blind
        return {
            "pairs": len(self.errors),
            **{name: block(*values) for name, values in sets.items() if np.isfinite(values[0]).any()},
            "regions": regions,
            "edge_f1": float(self.edges.mean()),
            "edge_f1_without_reference": float(self.edges_blind.mean()),
            "edge_f1_ratio": float(self.edges.mean() / self.edges_blind.mean()),
            "edge_f1_ratio_95": list(interval(ratios, np.mean)),
        }


def table(summary: dict) -> str:
    """The summary as text, a row per set of regions."""
    lines = [f"{'region':18} {'error':>7} {'no ref.':>8} {'ratio':>6}  95 %"]
    titles = {
        "all_regions": "all",
        "shown_regions": "shown by reference",
        "shown_figure": "  its figure",
        "shown_background": "  its background",
    }
    rows = {title: summary[name] for name, title in titles.items() if name in summary}
    for name, row in {**rows, **summary["regions"]}.items():
        low, high = row["ratio_95"]
        numbers = f"{row['error']:7.2f} {row['error_without_reference']:8.2f} {row['ratio']:6.3f}"
        lines.append(f"{name:18} {numbers}  {low:.3f}..{high:.3f}")
    low, high = summary["edge_f1_ratio_95"]
    lines.append(
        f"edge F1 {summary['edge_f1']:.3f}, without reference {summary['edge_f1_without_reference']:.3f}, "
        f"ratio {summary['edge_f1_ratio']:.3f} ({low:.3f}..{high:.3f}); {summary['pairs']} pairs"
    )
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, help="exported v1 or v1.5 model (.safetensors)")
    parser.add_argument("--encoder", required=True, help="its reference encoder (.safetensors)")
    parser.add_argument("--data", required=True, help="folder written by demo-data --split heldout")
    parser.add_argument("--mode", choices=MODES, default="vanilla", help="bg2fig and fig2fig need a v1.5 model")
    parser.add_argument("--output", default="evaluation", help="folder for report.json and sheet.png")
    parser.add_argument("--count", type=int, default=64, help="pairs to measure (default 64)")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps (default 20)")
    parser.add_argument("--guidance", type=float, default=2.0, help="reference guidance (default 2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="arithmetic; bf16 is faster where the chip has it"
    )


def run(args: argparse.Namespace) -> None:
    """Measure, print a table and write report.json and sheet.png (sketch, reference, with, without, truth)."""
    from trainer.data.folder import FolderDataset
    from trainer.data.world import REGION_NAMES
    from trainer.stages import contact_sheet, model_sketch, picture

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    colorizer = Colorizer.from_files(args.checkpoint, args.encoder, device)
    with Image.open(next(iter(sorted(Path(args.data, "color").glob("*.png"))), args.data)) as first:
        size = min(first.size)
    needs = ("color", "sketch", "reference", "regions", "reference_regions")
    if args.mode != "vanilla":
        needs += ("mask", "reference_mask")
    dataset = FolderDataset(args.data, size, "folder", args.seed, needs=needs)
    if len(dataset) < args.count:
        raise ConfigError(
            f"{args.data} holds {len(dataset)} pairs, {args.count} are asked for; write more, or lower --count."
        )
    parts: list[list[torch.Tensor]] = [[], [], [], [], []]
    sheets: list[np.ndarray] = []
    for start in tqdm(range(0, args.count, args.batch), unit="batch"):
        rows = [dataset[i] for i in range(start, min(start + args.batch, args.count))]
        batch = {k: v.to(device) for k, v in torch.utils.data.default_collate(rows).items()}
        sketches, references, truth = (
            model_sketch(batch["sketch"]),
            picture(batch["reference"]),
            picture(batch["color"]),
        )
        masks = [batch[name].float() / 255 if name in batch else None for name in ("mask", "reference_mask")]
        tokens, regions = colorizer.tokens(references), colorizer.regions(args.mode, references, *masks)
        noise = [torch.Generator().manual_seed(args.seed + start) for _ in range(2)]
        with torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16"):
            with_reference = colorizer.generate(sketches, tokens, args.steps, args.guidance, noise[0], regions)
            without = colorizer.generate(sketches, torch.zeros_like(tokens), args.steps, 1.0, noise[1])
        for index, result in enumerate((with_reference.float(), without.float())):
            parts[index].append(region_errors(result.cpu(), truth.cpu(), batch["regions"].cpu(), len(REGION_NAMES)))
            parts[2 + index].append(edge_f1(result.cpu(), -sketches[:, :1].cpu()))
        parts[4].append(shown_regions(batch["reference_regions"].cpu(), REGION_NAMES))
        if len(sheets) < 3:
            sheets.append(contact_sheet([-sketches, references, with_reference.float(), without.float(), truth]))
    measured = Result(*(torch.cat(p).numpy() for p in parts))
    summary = measured.summary(tuple(REGION_NAMES))
    summary |= {
        "mode": args.mode,
        "precision": args.precision,
        "steps": args.steps,
        "guidance": args.guidance,
        "seed": args.seed,
        "size": size,
    }
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / "report.json").write_text(json.dumps(summary, indent=1))
    Image.fromarray(np.concatenate(sheets)).save(output / "sheet.png")
    print(table(summary))
