"""python -m trainer COMMAND: the trainer's command line. Each command explains itself with --help."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads slow each other and everybody else

from spread.errors import SpreadError  # noqa: E402
from trainer import packages  # noqa: E402
from trainer.config import ConfigError  # noqa: E402
from trainer.failures import Failure, Stopped, in_words  # noqa: E402


def _train(args: argparse.Namespace, rest: list[str]) -> None:
    if args.init_from:
        rest = [*rest, "--model.init_from", args.init_from]
    from trainer.models import precision
    from trainer.stages import table
    from trainer.workers import device

    resolved = table.load(args.config, rest)
    if not args.dry_run:  # its numbers are wanted as configured, for another computer, too
        resolved = precision.on_device(resolved, device())
    print(json.dumps(resolved.to_dict(), indent=1))
    if args.dry_run:
        from trainer.commands import dry_run

        dry_run.run(resolved)
        return
    from trainer.run.loop import train

    print(f"exported {train(resolved)}")


# Commands that live in a module of their own: add_arguments(parser) and run(args), which may
# return the exit status; with OVERRIDES = True, run(args, overrides).
COMMANDS = {
    "sample": ("trainer.commands.sample", "colour one sketch with one reference"),
    "evaluate": ("trainer.commands.evaluate", "measure a model on held-out pairs"),
    "show": ("trainer.commands.show", "write one page of a run, or of several side by side, to look at"),
    "convert": ("trainer.commands.convert", "turn a checkpoint into the file the nodes load"),
    "prepare": ("trainer.commands.prepare", "make sketches, masks and the index of a data set from its pictures"),
    "doctor": ("trainer.commands.doctor", "find what is wrong with a data set"),
    "cache": ("trainer.commands.cache", "encode the pictures of a run once, so that it needs no encoder"),
    "tiny-tagger": (
        "trainer.commands.tiny_tagger",
        "write a small frozen tower in the tagger's layout, for small XL models",
    ),
    "art-data": ("trainer.commands.art_data", "write a training set of drawings by people from free packages"),
    "feature-encoder": ("trainer.commands.feature_encoder", "join a small reference encoder with pretrained features"),
    "demo-data": ("trainer.commands.demo_data", "draw a training set of procedural characters"),
    "evaluate-faces": ("trainer.commands.evaluate_faces", "measure AnimeDiffusion models on held-out pictures"),
    "evaluate-flats": ("trainer.commands.evaluate_flats", "measure flats of a model's results on held-out characters"),
    "demo-shots": ("trainer.commands.demo_shots", "draw shots of procedural characters with their true colours"),
    "evaluate-shots": (
        "trainer.commands.evaluate_shots",
        "measure colours carried from a key through procedural shots",
    ),
    "demo-faces": ("trainer.commands.demo_faces", "draw a training set of procedural faces (AnimeDiffusion)"),
}


def _parser(arguments: list[str]) -> argparse.ArgumentParser:
    """The command line. Only the command that is asked for is imported, when its packages are there."""
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("train", help="train a model, or resume a run with the same command")
    command.add_argument("--config", required=True, metavar="FILE", help="TOML file, or the name of a preset")
    command.add_argument("--dry-run", action="store_true", help="print sizes, memory and data problems, then stop")
    command.add_argument(
        "--init-from", metavar="FILE", help="start from another model's weights, made to fit (model.init_from)"
    )
    command.epilog = "Every key can be overridden: --section.key value"
    for name, (module, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        if name in arguments[:1]:  # the others are not imported: a command starts fast
            packages.check(name)
            importlib.import_module(module).add_arguments(command)
    return parser


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        parser = _parser(arguments)
        args, rest = parser.parse_known_args(arguments)
        packages.check(args.command, args)
        if args.command == "train":
            _train(args, rest)
        else:
            module = importlib.import_module(COMMANDS[args.command][0])
            takes_overrides = getattr(module, "OVERRIDES", False)
            if rest and not takes_overrides:
                parser.error(f"unknown arguments: {' '.join(rest)}")
            return module.run(args, *([rest] if takes_overrides else [])) or 0
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.status
    except (Failure, SpreadError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if (words := in_words(error)) is None:
            raise
        print(f"error: {words}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
