"""`python -m trainer evaluate`: the quality of a colouriser, in numbers with intervals, as a table and as JSON.

Four protocols, each for every setting asked for; protocols.py says what they measure:
    regions       colour error of every region, procedural sets with a known answer (the default)
    deformed      PSNR, MS-SSIM and CLIP similarity, references = the picture itself, bent (thin plate splines)
    random        FID and CLIP similarity to the reference, references = other pictures of the set
    entanglement  how much structure comes from the reference, references = other pictures of the set
The papers' numbers are `--protocol random deformed --guidance 1 2 3 ...` with `--inception FILE --clip FILE`;
docs/PAPERS.md has the command of every table's row.
All runs of one command use the same pairs and the same noise; further settings are compared with the first pair by
pair, and so are a second model (`--against`), for example with and without the Gram loss, and pictures that other
methods made of the same pairs (`--pairs` writes these, `--results` reads those).
`--views X Y` also draws what a point of the first pairs looks at inside the U-Net (views.py).
A command that was stopped goes on when it is given again; `--workers`, `--ray` and `accelerate launch` share the pairs.
In report.json a number that is not finite is null: the PSNR of results that equal their pictures, a set of which
nothing was measured.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from colorize.reference.fitting import FIT_MODES
from spread.crew import ALONE, Crew
from trainer.config import ConfigError
from trainer.data.sources import check_folder
from trainer.evaluate import real
from trainer.evaluate.pairs import write_pairs
from trainer.evaluate.parts import identity
from trainer.evaluate.protocols import NAMES as PROTOCOLS
from trainer.evaluate.protocols import NOBODY, Judges, Protocol, build
from trainer.evaluate.report import INTERVALS, Against, report, table
from trainer.evaluate.runs import FolderMaker, Maker, Measured, Measurement, ModelMaker, measure
from trainer.evaluate.sample import CUT_OUT, NO_REFERENCE, Setting
from trainer.evaluate.views import Look, Views
from trainer.json_file import write_report
from trainer.models.colorizer import MODE_HELP, MODES, read_encoder
from trainer.models.denoising import SAMPLERS, Denoising
from trainer.models.loras import LORA_HELP
from trainer.models.precision import for_device
from trainer.models.xl_colorizer import load
from trainer.workers import Team, add_crew_arguments, crew_of, device_of

PLAIN_SAMPLER = next(iter(SAMPLERS))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--checkpoint", default="", help="exported v1, v1.5 or XL model (.safetensors)")
    add("--encoder", default="", help="its reference encoder (.safetensors)")
    add("--tagger", default="", help="an XL model's WD tagger, or the second CLIP of one without (.safetensors)")
    add("--lora", nargs="+", default=[], metavar="FILE", help=LORA_HELP)
    add("--against", default="", metavar="CHECKPOINT", help="a second model with these encoders, compared pair by pair")
    add("--results", nargs="+", default=[], metavar="FOLDER", help="pictures that other methods made of the pairs")
    add("--results-without", nargs="+", default=[], metavar="FOLDER", help="what they make without reference, likewise")
    add("--pairs", default="", metavar="FOLDER", help="write the pairs for other methods there, and measure nothing")
    add("--data", default="", help="folder of demo-data --split heldout, or with color/ and sketch/")
    add(
        "--set",
        choices=("real",),
        help="measure on drawings by people, too, or without --data only; npm and apt-get fetch their packages",
    )
    add("--packages", default="data/packages", help="folder of those packages (default %(default)s)")
    add("--features", default="", help="EfficientNet-lite0 file that judges results of --set real")
    add("--protocol", nargs="+", choices=PROTOCOLS, default=["regions"], help="default regions")
    _add_settings(parser)
    add("--inception", help="Inception v3 file, for FID (1008 classes) or with torchvision's weights")
    add("--clip", help="CLIP file (open_clip or Hugging Face), for CLIP similarity")
    add("--deform", type=float, default=0.5, help="strength 0..1 of the bending (default 0.5)")
    add("--output", default="evaluation", help="folder for report.json, report.txt and sheets")
    add("--count", type=int, default=64, help="pairs to measure (default 64)")
    add("--size", type=int, default=0, help="side of the pictures in pixels, a multiple of 64 (default: the set's)")
    add("--intervals", choices=INTERVALS, default="all", help="pairs: not of FID, whose interval costs 100 FIDs")
    add("--seed", type=int, default=0)
    add("--batch", type=int, default=8)
    add_crew_arguments(parser, "this one")
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="arithmetic; a CPU without bf16 computes in fp32")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """What is measured in every combination."""
    add = parser.add_argument
    add(
        "--mode",
        nargs="+",
        choices=(*MODES, NO_REFERENCE),
        default=["vanilla"],
        help=f"{MODE_HELP}; {NO_REFERENCE} shows none",
    )
    add(
        "--cut-out",
        action="store_true",
        help="measure masked modes also with the figure's tokens from the reference without its background",
    )
    add("--fit", choices=FIT_MODES, default="stretch", help="fit of Encode Reference (default stretch, as in training)")
    add("--guidance", nargs="+", type=float, default=[2.0], help="reference guidance scales (default 2)")
    add("--sketch-guidance", nargs="+", type=float, default=[1.0], help="sketch guidance scales (default 1: none)")
    add("--noise-level", nargs="+", type=float, default=[0.0], help="share of noisy sampling's steps, 0..1 (default 0)")
    add("--sampler", nargs="+", choices=SAMPLERS, default=[PLAIN_SAMPLER], help=f"default {PLAIN_SAMPLER}")
    add("--steps", type=int, default=20, help="denoising steps (default 20)")
    add(
        "--views",
        nargs=2,
        type=float,
        metavar=("X", "Y"),
        help="also draw what this point, shares 0..1 of the picture, is alike to (Gram matrix) and looks at "
        "(self-attention) inside the U-Net, of the first batch's pairs",
    )
    add("--views-at", type=float, default=0.5, help="at which moment of sampling, 0..1 (default 0.5)")


def settings_of(args: argparse.Namespace) -> tuple[Setting, ...]:
    """Every combination that is asked for, each once; what shows no reference comes last. ConfigError."""
    found, unguided = [], []
    plan = itertools.product(args.guidance, args.sampler, args.sketch_guidance, args.noise_level)
    for scale, sampler, sketch, noise in plan:
        marks = [f"sketch guidance {sketch:g}"] * (sketch != 1) + [sampler] * (sampler != PLAIN_SAMPLER)
        noisy = [f"noise {noise:g}"] * (noise != 0)
        how = Denoising(args.steps, scale, sketch, noise, sampler)
        for cut, mode in itertools.product((False, True) if args.cut_out else (False,), args.mode):
            if mode == NO_REFERENCE:
                own = Denoising(args.steps, 1.0, sketch, 0.0, sampler)
                unguided.append(Setting(", ".join([mode, *marks]), own, mode))
            elif not (cut and mode == "vanilla"):
                found.append(Setting(", ".join([mode + CUT_OUT * cut, *marks, *noisy]), how, mode, cut))
    return tuple(dict.fromkeys([*found, *unguided]))


def check(args: argparse.Namespace) -> None:
    """Raise ConfigError for what cannot be meant, before any file is read and anything is measured."""
    if not args.data and not args.set:
        raise ConfigError("There is nothing to measure on: give --data FOLDER, or --set real.")
    if args.set and set(args.mode) != {"vanilla"}:
        raise ConfigError("--set real has no masks: measure it with --mode vanilla.")
    if args.checkpoint and not args.encoder:
        raise ConfigError("--checkpoint needs its reference encoder: --encoder FILE.")
    if not (args.checkpoint or args.pairs or (args.results and not args.set)):
        raise ConfigError("There is nothing to measure: give --checkpoint and --encoder, or --results FOLDER.")
    if args.lora and not args.checkpoint:
        raise ConfigError("--lora changes the model of --checkpoint: name one.")
    if args.views and not args.checkpoint:
        raise ConfigError("--views looks inside a model: name it with --checkpoint and --encoder.")
    if args.against and not args.checkpoint:
        raise ConfigError("--against compares with --checkpoint: name that, too.")
    if args.results_without and len(args.results_without) != len(args.results):
        raise ConfigError("--results-without names one folder for each of --results, in the same order.")
    for name, least in (("count", 2), ("steps", 1), ("batch", 1)):
        if getattr(args, name) < least:
            raise ConfigError(f"--{name} is {getattr(args, name)}; choose {least} or more.")
    if args.size % 64 or args.size < 0:
        raise ConfigError(f"--size is {args.size}; choose a multiple of 64.")
    if not 0 < args.deform <= 1:
        raise ConfigError(f"--deform is {args.deform}; choose a strength above 0, up to 1.")
    if args.cut_out and not set(args.mode) - {"vanilla", NO_REFERENCE}:
        raise ConfigError("--cut-out is about modes with masks; add masked, bg2fig or fig2fig to --mode.")
    smallest = args.count % args.batch or args.batch
    if "entanglement" in args.protocol and smallest < 3:
        raise ConfigError(
            f"--count {args.count} in batches of {args.batch} leaves a batch of fewer than three pairs; the protocol "
            "entanglement tells leakage from chance by the other pairs of a batch, so change --count or --batch."
        )
    settings_of(args)
    look_of(args)
    if args.data:
        check_folder(Path(args.data))


def look_of(args: argparse.Namespace) -> Look | None:
    """What --views asks for. ConfigError for a point outside the picture."""
    if not args.views:
        return None
    x, y = args.views
    return Look(x, y, args.views_at)


@dataclass
class _Evaluation:
    """What the methods of a command share."""

    args: argparse.Namespace
    settings: Measurement
    output: Path
    team: Team
    crew: Crew
    device: torch.device
    """What the workers compute on."""
    notes: list[str] = field(default_factory=list)
    """what a reader of the numbers must know"""
    measured: list[Measured] = field(default_factory=list)

    @property
    def here(self) -> torch.device:
        """Where this process has its networks: a crew's workers have theirs, and it only asks them what they can."""
        return self.device if self.crew.alone else torch.device("cpu")

    def method(self, which: str | int) -> Maker:
        """Of "checkpoint" or "against", or the number of a folder of --results."""
        return self.folder(which) if isinstance(which, int) else self.model(which)

    def model(self, option: str) -> ModelMaker:
        args, look, checkpoint = self.args, look_of(self.args), getattr(self.args, option)
        files = {name: identity(getattr(args, name)) for name in ("encoder", "tagger", "inception", "clip", "features")}
        loras = args.lora if option == "checkpoint" else []
        colorizer = load(checkpoint, args.encoder, args.tagger, self.here, loras)
        colorizer.fit = args.fit
        self.notes += [f"{Path(checkpoint).name}: {note}" for note in colorizer.notes(list(dict.fromkeys(args.mode)))]
        files["checkpoint"] = identity(checkpoint)
        files |= {f"lora {number}": identity(file) for number, file in enumerate(loras)}
        suffix = "-against" if option == "against" else ""
        views = None if look is None else Views(look, self.output / "views", suffix)
        return ModelMaker(colorizer, settings_of(args), args.seed, args.precision, self.device, files, views)

    def folder(self, number: int) -> FolderMaker:
        args = self.args
        without = Path(args.results_without[number]) if args.results_without else None
        files = {name: identity(getattr(args, name)) for name in ("encoder", "inception", "clip")}
        return FolderMaker(Path(args.results[number]), without, files)

    def judges(self, method: Maker) -> Judges:
        args, encoder = self.args, None
        if isinstance(method, ModelMaker):
            encoder = method.colorizer.reference_encoder
        elif args.encoder:
            encoder = read_encoder(args.encoder).to(self.here).eval()
        return Judges.of(encoder, self.here, args.inception, args.clip)

    def of(self, which: str | int, suffix: str = "") -> Iterator[tuple[Protocol, Measured]]:
        """Of every protocol: itself and what was measured; writes the sheets."""
        if not self.args.data:
            return
        method = self.method(which)
        judges = self.judges(method)
        for name in dict.fromkeys(self.args.protocol):
            protocol = build(name, judges, self.args.deform)
            measured = self.measure(which, method, protocol, self.settings)
            if self.team.main:
                Image.fromarray(np.concatenate(measured.sheets)).save(self.output / f"{name}{suffix}.png")
            yield protocol, measured

    def others(self) -> dict[str, list[Against]]:
        """By protocol: what is compared with the first method. Measured first, so that it is out of memory then."""
        found: dict[str, list[Against]] = {name: [] for name in self.args.protocol}
        if self.args.against:
            for protocol, measured in self.of("against", "-against"):
                found[protocol.name].append(Against(Path(self.args.against).name, measured.values, True))
        for number in range(0 if self.args.checkpoint else 1, len(self.args.results)):
            name = Path(self.args.results[number]).name
            for protocol, measured in self.of(number, f"-{name}"):
                found[protocol.name].append(Against(name, measured.values, False))
        return found

    def measure(self, which: str | int, method: Maker, protocol: Protocol, settings: Measurement) -> Measured:
        making = functools.partial(_made_again, self.args, self.device, which, protocol.name)
        parts = self.output / "parts"
        self.measured.append(measure(method, protocol, settings, parts, self.team, self.crew, making))
        return self.measured[-1]

    def real(self) -> dict:
        """The numbers of --set real by set, and "text": their table; writes a sheet per set."""
        method, packages = self.model("checkpoint"), Path(self.args.packages)
        if self.team.main:  # it fetches and draws what is not there; the others find it
            real.prepared(packages.parent / "benchmark", packages)
        self.team.wait()
        folder = real.prepared(packages.parent / "benchmark", packages)

        def keep(name: str, sheet: np.ndarray) -> None:
            if self.team.main:
                Image.fromarray(sheet).save(self.output / f"{name}.png")

        judge = real.features_of(method.colorizer, self.args.features)
        measured = functools.partial(self.measure, "checkpoint", method)
        found = real.measure_sets(folder, self.settings, judge, measured, keep)
        return {**found, "text": real.table(found)}


def _made_again(args: argparse.Namespace, device: torch.device, which: str | int, name: str) -> tuple[Maker, Protocol]:
    """A worker's own method and protocol: of NAMES, or a set of --set real."""
    own = _Evaluation(args, Measurement("", 0, 0, 1), Path(args.output), Team(), ALONE, device)
    method = own.method(which)
    if name in PROTOCOLS or not isinstance(method, ModelMaker):
        return method, build(name, own.judges(method), args.deform)
    return method, real.protocol(name, real.features_of(method.colorizer, args.features))


def run(args: argparse.Namespace) -> None:
    """Measure, print the tables and write report.json, report.txt and a sheet per protocol."""
    check(args)
    settings = Measurement(args.data, args.count, args.seed, args.batch, args.size)
    if args.pairs:
        for name in dict.fromkeys(args.protocol):
            print(write_pairs(build(name, NOBODY, args.deform), settings, Path(args.pairs)))
        return
    crew = crew_of(args, usual=1, gpu=True)
    if not crew.gpus:  # those of other machines cannot be asked from here
        args.precision = for_device(args.precision, device_of(crew))
    command = _Evaluation(args, settings, Path(args.output), Team.launched(), crew, device_of(crew))
    command.output.mkdir(parents=True, exist_ok=True)
    results, texts, size = [], [], None
    others = command.others()
    found_real = command.real() if args.set else None
    if found_real:
        texts.append(found_real.pop("text"))
    for protocol, measured in command.of("checkpoint" if args.checkpoint else 0):
        size = measured.size
        if command.team.main:
            results.append(report(protocol, measured.values, others[protocol.name], args.intervals))
            texts.append(table(results[-1]))
    command.team.wait()
    if not command.team.main:
        return
    notes = list(dict.fromkeys(command.notes))
    print("\n\n".join([*texts, *notes]))
    summary = {
        "checkpoint": Path(args.checkpoint).name or None,
        "loras": [Path(file).name for file in args.lora],
        "against": Path(args.against).name or None,
        "results": [Path(folder).name for folder in args.results],
        "data": Path(args.data).name,
        "pairs": args.count,
        "size": size,
        **{key: getattr(args, key) for key in ("steps", "seed", "precision", "intervals")},
        "protocols": results,
        "real": found_real,
        "notes": notes,
    }
    write_report(command.output / "report.json", summary)
    (command.output / "report.txt").write_text(
        "\n\n".join([*texts, "\n".join(notes)]).rstrip() + "\n", encoding="utf-8"
    )
    for measured in command.measured:
        measured.parts.remove()
