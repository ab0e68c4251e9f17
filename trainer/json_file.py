"""JSON files: those that somebody else may have written are read whole or refused with a sentence, ours are valid."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from trainer.config import ConfigError
from trainer.text_file import read_text

JSON_ERRORS = (ValueError, OverflowError, RecursionError, MemoryError)
"""What the json module raises for text that is no JSON, or JSON nested thousands of levels deep."""


def no_constant(name: str) -> None:
    """For json's parse_constant: NaN and Infinity are no JSON."""
    raise ValueError(f"{name} is no number")


def read_object(path: Path, advice: str) -> dict[str, Any]:
    """The JSON object in a file. ConfigError with the advice when it cannot be read, or is something else."""
    try:
        values = json.loads(read_text(path), parse_constant=no_constant)
    except (OSError, *JSON_ERRORS) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise ConfigError(f"{path} cannot be read ({reason}); {advice}.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}, not a JSON object; {advice}.")
    return values


def write_report(path: Path, values: dict[str, Any]) -> None:
    """Write measurements as JSON that every reader takes: a number that is not finite becomes null."""
    path.write_text(json.dumps(_finite(values), indent=1, allow_nan=False), encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, (list, tuple)) else value
