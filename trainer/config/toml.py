"""From a TOML file and `--section.key value` to a Config. An unknown key fails with the closest known name."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from trainer.text_file import read_text

from .section import ConfigError
from .tree import PATHS, Config

BACKSLASHES = " A Windows path is written 'C:\\pictures\\new' in single quotes, or with / for every \\."
PRESETS = Path(__file__).parents[1] / "presets"


def _unknown(kind: str, name: str, known: Sequence[str]) -> ConfigError:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}."
    return ConfigError(f"Unknown {kind} {name!r}; {hint}")


def _convert(value: Any, kind: Any, where: str) -> Any:
    """Check a TOML or command-line value against a field's type and convert it."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    text = isinstance(value, str)
    try:
        if origin is Literal:
            if value not in arguments:
                raise _unknown(f"value of {where}", str(value), [str(a) for a in arguments])
            return value
        if origin is tuple:
            items = [v for v in value.replace(",", " ").split()] if text else list(value)
            return tuple(_convert(item, arguments[0], where) for item in items)
        if kind is bool:
            if isinstance(value, bool):
                return value
            if text and value.lower() in ("true", "false", "1", "0", "yes", "no"):
                return value.lower() in ("true", "1", "yes")
        elif kind is int:
            if not isinstance(value, bool) and (text or int(value) == value):
                return int(value)
        elif kind is float:
            if not isinstance(value, bool) and math.isfinite(number := float(value)):
                return number
        elif kind is str and text:
            return value
    except ConfigError:
        raise
    except (TypeError, ValueError, AttributeError, OverflowError):
        pass
    raise ConfigError(f"{where} = {value!r:.200} is not a {getattr(kind, '__name__', kind)}.")


def build(values: dict[str, dict[str, Any]]) -> Config:
    """A checked Config from nested dictionaries."""
    sections: dict[str, Any] = {f.name: f.default_factory for f in dataclasses.fields(Config)}
    built = {}
    for section, content in values.items():
        if section not in sections:
            raise _unknown("section", section, list(sections))
        if not isinstance(content, dict):
            raise ConfigError(f"{section} is a section, not a value: write [{section}] and its keys below it.")
        kinds = typing.get_type_hints(sections[section])
        for key in content:
            if key not in kinds:
                raise _unknown(f"key in [{section}]", key, list(kinds))
        built[section] = sections[section](**{k: _convert(v, kinds[k], f"{section}.{k}") for k, v in content.items()})
    return Config(**built)


def find_file(name: str) -> Path:
    """A TOML file by path, or a preset by its bare name."""
    for path in (Path(name), PRESETS / name, PRESETS / f"{name}.toml"):
        if path.is_file():
            return path
    presets = ", ".join(sorted(p.stem for p in PRESETS.glob("*.toml")))
    raise ConfigError(f"No configuration file {name!r}; give a path or one of the presets: {presets}.")


def load(file: str, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file (or preset) and apply overrides of the form --section.key value or --section.key=value."""
    path, text = find_file(file), ""
    try:
        text = read_text(path)
        values: dict[str, dict[str, Any]] = tomllib.loads(text)
    except (ValueError, OverflowError, RecursionError) as error:  # of TOML, of UTF-16, of nesting
        windows = isinstance(error, tomllib.TOMLDecodeError) and re.search(r'"[A-Za-z]:\\', text)
        raise ConfigError(f"{path} is not valid TOML: {error}.{BACKSLASHES if windows else ''}") from None
    rest = list(overrides)
    while rest:
        option = rest.pop(0)
        name, separator, value = option.removeprefix("--").partition("=")
        section, dot, key = name.partition(".")
        if not option.startswith("--") or not dot:
            raise ConfigError(f"{option!r} is not an override; write --section.key value.")
        if not separator:
            if not rest:
                raise ConfigError(f"{option} needs a value.")
            value = rest.pop(0)
        values.setdefault(section, {})[key] = value
    _check_paths(values, path)
    return build(values)


def _check_paths(values: Mapping[str, Any], file: Path) -> None:
    """ConfigError for paths with control characters: TOML reads "C:\\new" as a C:, a new line and ew."""
    for section, key in PATHS:
        content = values.get(section)
        value = content.get(key) if isinstance(content, dict) else None
        if isinstance(value, str) and any(letter < " " for letter in value):
            raise ConfigError(f"{section}.{key} = {value!r} of {file} is no path.{BACKSLASHES}")
