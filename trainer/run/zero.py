"""DeepSpeed's ZeRO through accelerate. The package is imported by nobody until a run asks for it.

A DeepSpeed JSON says how to shard; batch, accumulation, clipping and precision stand in the run's own configuration and
fill the JSON's "auto" values, so that no number is written down twice.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from trainer.config import PRESETS, Config, ConfigError
from trainer.json_file import read_object

FOLDER = PRESETS / "deepspeed"


def find_file(name: str) -> Path:
    """A JSON file by path, or one of presets/deepspeed by its bare name."""
    for path in (Path(name), FOLDER / f"{name}.json"):
        if path.is_file():
            return path
    known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.json")))
    raise ConfigError(f"system.deepspeed = {name!r} is no file; give the path of a JSON file, or one of: {known}.")


def settings(config: Config) -> dict[str, Any]:
    """The DeepSpeed configuration of a run, without "auto" in it; accelerate adds the number of processes."""
    path, adam, precision = find_file(config.system.deepspeed), config.optimizer, config.system.precision
    values = read_object(path, "give the path of another JSON file, or correct it")
    known = {
        "train_micro_batch_size_per_gpu": adam.batch,
        "gradient_accumulation_steps": adam.accumulate,
        "gradient_clipping": adam.clip,
        "bf16.enabled": precision == "bf16",
        "fp16.enabled": precision == "fp16",
    }
    for name, value in known.items():
        *sections, key = name.split(".")
        place = values
        for section in sections:
            place = place.get(section, {})
        if place.get(key) == "auto":
            place[key] = value
        elif key in place and place[key] != value:
            raise ConfigError(
                f'{path} says {name} = {place[key]!r}, the configuration of the run {value!r}; write "auto" there.'
            )
    if left := sorted(_autos(values)):
        raise ConfigError(f'{path} has "auto" where this trainer has nothing to fill in: {", ".join(left)}.')
    return values


def _autos(values: dict[str, Any], prefix: str = "") -> list[str]:
    out = []
    for key, value in values.items():
        if isinstance(value, dict):
            out += _autos(value, f"{prefix}{key}.")
        elif value == "auto":
            out.append(prefix + key)
    return out


def check_package() -> None:
    """ConfigError where deepspeed is not installed."""
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(
            "system.deepspeed needs the package deepspeed (Linux only): pip install deepspeed, or clear "
            "system.deepspeed and start the same run with `accelerate launch` alone."
        )


def plugin(config: Config) -> Any:
    """Accelerate's plugin with the run's settings. ConfigError where deepspeed is not installed."""
    values = settings(config)
    check_package()
    from accelerate import DeepSpeedPlugin

    return DeepSpeedPlugin(hf_ds_config=values)
