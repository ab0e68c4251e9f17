"""JSON files that somebody else may have written: read whole or refused with a sentence."""

from __future__ import annotations

import json
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
