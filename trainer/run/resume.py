"""Which run a checkpoint belongs to: what may change between two starts of the same command, and what may not.

A run is its stage, its [model] section and what stands in the files that section names. Files are compared by their
tensors and metadata, so that they may be moved or copied, and one that was replaced under its old name is noticed.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.cache.recipes import encoder_digest
from trainer.config import PATHS, Config, ConfigError, Model
from trainer.models import checkpoint

log = logging.getLogger("trainer")

FILES = tuple(key for section, key in PATHS if section == "model")
"""Keys of [model] that name files."""
FREE = {
    ("run", "output"),
    ("run", "steps"),
    ("run", "epochs"),
    ("data", "decoded_folder"),
    ("data", "workers"),
    ("optimizer", "ema_device"),
    ("optimizer", "fused"),
    ("optimizer", "fused_backward_pass"),
}
"""Keys that do not change what is learned: where things lie and how fast they come. So are the sections below."""
FREE_SECTIONS = ("system", "report")
ELSEWHERE = "or choose another run.output for a new run"


def file_digests(model: Model) -> dict[str, str]:
    """Key of [model] -> hash of the content of the file it names."""
    named = {key: getattr(model, key) for key in FILES}
    if not Path(named["init_from"]).is_file():  # it was read when the run began, and may be gone since
        del named["init_from"]
    return {key: encoder_digest(path) for key, path in named.items() if path}


def check_same_run(config: Config, files: Mapping[str, str], folder: Path, state: Mapping[str, Any]) -> None:
    """ConfigError, naming the keys, when a checkpoint belongs to another run: to another stage or [model] section,
    other contents of its files, or other trained parameters. One warning for keys that only change how it goes on.

    files: those of `file_digests`. state: of the checkpoint in `folder`.
    """
    written = state.get("config")
    if written is None:  # a folder that accelerate wrote alone
        return
    _check_model(config, files, folder, written.get("model"), state.get("files"))
    now = json.loads(json.dumps(config.to_dict()))
    before = with_defaults(written)
    if before["run"]["stage"] != now["run"]["stage"]:
        raise ConfigError(
            f"{folder.parent} holds a run of stage {before['run']['stage']}, not {now['run']['stage']}: set run.stage "
            f'= "{before["run"]["stage"]}", {ELSEWHERE}.'
        )
    if before["optimizer"]["freeze"] != now["optimizer"]["freeze"]:
        raise ConfigError(
            f"{folder.parent} holds a run with optimizer.freeze = {before['optimizer']['freeze']}, not "
            f"{now['optimizer']['freeze']}: its optimiser owns other parameters. Set it back, {ELSEWHERE}."
        )
    if before["optimizer"]["kind"] != now["optimizer"]["kind"]:
        raise ConfigError(
            f"{folder.parent} holds a run with optimizer.kind = {before['optimizer']['kind']!r}, whose state "
            f"{now['optimizer']['kind']!r} cannot go on with: set it back, {ELSEWHERE}."
        )
    if _parts(before["optimizer"]["rates"]) != _parts(now["optimizer"]["rates"]):
        raise ConfigError(
            f"{folder.parent} holds a run with optimizer.rates = {before['optimizer']['rates']}, not "
            f"{now['optimizer']['rates']}: its optimiser has other parts. Their rates may change, not the parts; "
            f"{ELSEWHERE}."
        )
    was, adapter = before["adapter"], now["adapter"]
    if other := [key for key in adapter if key != "frozen" and adapter[key] != was[key]]:
        back = ", ".join(f"adapter.{key} = {was[key]!r}" for key in other)
        raise ConfigError(f"{folder.parent} holds a run with other adapters: set {back} as it began, {ELSEWHERE}.")
    if changed := changes(before, now):
        log.warning("%s goes on with other settings than it began with: %s", folder.parent, "; ".join(changed))


def _parts(rates: list[str]) -> list[str]:
    """The beginnings of names in optimizer.rates."""
    return [rate.partition("=")[0].strip() for rate in rates]


def _check_model(config: Config, files: Mapping[str, str], folder: Path, model: Any, contents: Any) -> None:
    """ConfigError when [model] differs, or the content of a file it names."""
    now = json.loads(json.dumps(config.to_dict()["model"]))
    if not isinstance(model, dict):
        raise ConfigError(f"{folder} does not say its [model] section, so it is of another [model]; {ELSEWHERE}.")
    before = {**dataclasses.asdict(Model()), **model}  # of keys that are newer than the checkpoint
    contents = contents if isinstance(contents, dict) else {}
    different = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if key in contents and key in files:
            if contents[key] != files[key]:
                place = f"{old!r} has" if old == new else f"{new!r} instead of {old!r} has"
                different.append(f"model.{key} = {place} other content")
        elif old != new:
            different.append(f"model.{key} = {new!r}, which was {old!r}")
    if different:
        raise ConfigError(
            f"{folder.parent} holds a run with another [model] section: {'; '.join(different)}. Give it what it began "
            f"with, {ELSEWHERE}."
        )


def with_defaults(written: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A checkpoint's configuration, with the defaults of keys that are newer than it."""
    sections: dict[str, Any] = {field.name: field.default_factory for field in dataclasses.fields(Config)}
    now = json.loads(json.dumps({name: dataclasses.asdict(section()) for name, section in sections.items()}))
    for section, content in written.items():
        if section in now and isinstance(content, dict):
            now[section] |= content
    return now


def changes(before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Keys that change what is learned from here on, each with both values."""
    found = []
    for section, content in now.items():
        if section in (*FREE_SECTIONS, "model"):
            continue
        for key, value in content.items():
            old = before[section].get(key)
            if old != value and (section, key) not in FREE:
                found.append(f"{section}.{key} = {value!r}, was {old!r}")
    curve = before["optimizer"]["decay"] != "constant" or before["loss"]["reference_drop_end"] >= 0
    if curve and before["run"]["steps"] != now["run"]["steps"]:
        found.append(f"run.steps = {now['run']['steps']}, was {before['run']['steps']}, which its schedules follow")
    if before["system"]["precision"] != now["system"]["precision"]:
        found.append(f"system.precision = {now['system']['precision']!r}, was {before['system']['precision']!r}")
    return found


def tell_when_done(config: Config, start: int) -> None:
    """Say that a run has its steps already, or more of them than it shall have."""
    output, steps = Path(config.run.output), config.run.steps
    if start > steps:
        log.warning(
            "%s has %d steps already and run.steps = %d: nothing is trained, and the file that is exported has %d",
            output, start, steps, start,
        )  # fmt: skip
    elif start == steps:
        log.info("%s has its %d steps already; a larger run.steps trains on", output, steps)


def newest_whole(saved: list[Path]) -> tuple[Path | None, list[Path]]:
    """The newest checkpoint that can be read, and the newer ones that cannot; None of no checkpoints.

    Every damaged one is named in a warning. ConfigError where all of them are damaged.
    """
    damaged: list[Path] = []
    for folder in reversed(saved):
        try:
            checkpoint.check_whole(folder)
        except ConfigError as error:
            log.warning("%s is damaged and left aside: %s", folder, error)
            damaged.append(folder)
            continue
        return folder, damaged
    if damaged:
        names = ", ".join(folder.name for folder in damaged)
        raise ConfigError(
            f"No checkpoint of {damaged[0].parent} can be read ({names}); the warnings above say why. Bring one back "
            "from a backup, or choose another run.output to begin again."
        )
    return None, []
