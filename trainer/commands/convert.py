"""`python -m trainer convert`: a run's checkpoint -> the safetensors file that the nodes load; NAME-encoder beside it
where the run trained its reference encoder, too.

Reads this trainer's checkpoints, folders of accelerate's save_state, and DeepSpeed's sharded ones.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from trainer import config as configuration
from trainer.config import ConfigError
from trainer.json_file import read_object
from trainer.models import checkpoint
from trainer.models.precision import DTYPES
from trainer.run.resume import newest_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="folder of a run (its newest checkpoint is taken) or of one checkpoint")
    parser.add_argument("--output", required=True, help="the .safetensors file to write")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="fp16", help="type of the weights in the file (default fp16)"
    )
    parser.add_argument("--best", action="store_true", help="take the checkpoint with the lowest validation loss")
    parser.add_argument(
        "--merge", action="store_true", help="of a run with [adapter]: the whole model with them in its weights"
    )
    parser.add_argument("--no-ema", action="store_true", help="take the last weights instead of their moving average")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="read a DeepSpeed checkpoint: it holds pickles, which can run any program; for runs of your own only",
    )
    parser.add_argument("--title", help="title in the metadata (default: the output's name)")


def find_checkpoint(source: Path, best: bool = False) -> Path:
    """The checkpoint folder meant by `source`: itself, or of a run the newest whole one, or the best."""
    if not source.is_dir():
        raise ConfigError(f"{source} is not a folder; give the folder of a run, or one of its step-* folders.")
    if best:
        if (found := checkpoint.best(source)) is None:
            raise ConfigError(f"{source} has no validated checkpoint; leave --best out to take the newest.")
        return found
    if source.name.endswith((checkpoint.UNFINISHED, ".part", checkpoint.SET_ASIDE)):
        raise ConfigError(
            f"{source} is no finished checkpoint: its writing was interrupted, or it is damaged. Give the folder of "
            "the run, whose newest whole checkpoint is taken."
        )
    newest, _ = newest_whole(checkpoint.folders(source))
    return newest or source


def run_config(folder: Path) -> configuration.Config:
    """The configuration a checkpoint was trained with."""
    for path, key in (
        (folder / "state.json", "config"),
        (folder / "config.json", None),
        (folder.parent / "config.json", None),
    ):
        if path.is_file():
            values: Any = read_object(path, "give the folder of a run of this trainer")
            values = values.get(key) if key else values
            if not isinstance(values, dict) or not all(isinstance(section, dict) for section in values.values()):
                raise ConfigError(f"{path} holds no configuration of this trainer; give the folder of one of its runs.")
            return configuration.build(values)
    raise ConfigError(
        f"{folder} has no state.json and no config.json beside it, so it is no checkpoint of this trainer."
    )


def weights(folder: Path, averaged: bool, trust: bool = False) -> dict[str, torch.Tensor]:
    """Trained weights by name, from any of the three kinds of checkpoint. trust: also from pickles."""
    if (folder / "latest").is_file() or any(folder.glob("pytorch_model/*zero*")):
        if not trust:
            raise ConfigError(
                f"{folder} is a DeepSpeed checkpoint: it holds pickles, which can run any program when they are read. "
                "If the run is your own, add --trust; if somebody gave you the folder, ask for the .safetensors file."
            )
        try:
            from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
        except ImportError:
            raise ConfigError(
                f"{folder} is a DeepSpeed checkpoint; joining its shards needs the package deepspeed."
            ) from None
        return get_fp32_state_dict_from_zero_checkpoint(str(folder))
    if not (folder / "model.safetensors").is_file():
        found = ", ".join(sorted(p.name for p in folder.iterdir())) or "nothing"
        raise ConfigError(f"{folder} holds no model.safetensors; found: {found}.")
    tensors, _ = checkpoint.read_tensors(folder / "model.safetensors")
    if averaged and (folder / "ema.safetensors").is_file():
        shadow, _ = checkpoint.read_tensors(folder / "ema.safetensors")
        shadow.pop("ema_updates", None)
        tensors |= shadow
    return tensors


def run(args: argparse.Namespace) -> None:
    """Build the stage the checkpoint belongs to, and write what it exports."""
    from trainer.stages import adapted, table

    folder = find_checkpoint(Path(args.source), args.best)
    config = run_config(folder)
    stage = table.row(config).build(config, torch.device("cpu"))  # what an older trainer ran is not checked again
    state = weights(folder, averaged=not args.no_ema, trust=args.trust)
    if missing := stage.state_dict().keys() - state.keys():
        raise ConfigError(f"{folder} lacks {len(missing)} tensors of the model, e.g. {min(missing)}.")
    if args.merge and not adapted.wanted(config):
        raise ConfigError(f"{folder} trained no adapters, so there is nothing to merge: leave --merge out.")
    output = Path(args.output)
    exported = adapted.merged(stage, state) if args.merge else stage.export(state)
    for suffix, (tensors, metadata) in {"": exported, **stage.further_exports(state)}.items():
        _write(output.with_stem(output.stem + suffix), tensors, metadata, args)


def _write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str], args: argparse.Namespace) -> None:
    """Write one file in the type that --dtype names. ConfigError where its range is too small."""
    dtype = DTYPES[args.dtype]
    tensors = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}
    if bad := [k for k, v in tensors.items() if v.is_floating_point() and not torch.isfinite(v).all()]:
        raise ConfigError(
            f"{len(bad)} tensors are not finite in {args.dtype}, e.g. {bad[0]}; choose --dtype bf16 or fp32."
        )
    metadata["modelspec.title"] = path.stem if path.stem != Path(args.output).stem else args.title or path.stem
    checkpoint.write_tensors(path, tensors, metadata)
    size = path.stat().st_size
    print(f"{path}: {len(tensors)} tensors, {size / 2**20:.1f} MiB, {args.dtype}")
