"""What a section of a configuration is, and the numbers its keys may hold."""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass
from typing import Annotated, Literal


class ConfigError(ValueError):
    """A mistake in the configuration; the text says where and what to write instead."""


@dataclass(frozen=True)
class Range:
    """What a number may be, both ends included."""

    low: float = -math.inf
    high: float = math.inf
    what: str = ""
    """in words, after "section.key is" """


Precision = Literal["fp32", "bf16", "fp16"]
Probability = Annotated[float, Range(0, 1, "a probability between 0 and 1")]
Share = Annotated[float, Range(0, 1, "a share between 0 and 1")]
Count = Annotated[int, Range(1, what="at least 1")]
Amount = Annotated[int, Range(0, what="at least 0")]
Weight = Annotated[float, Range(0, what="at least 0")]
Positive = Annotated[float, Range(math.ulp(0.0), what="above 0")]


class Section:
    """Base of the sections: checks the ranges that its keys declare."""

    def __post_init__(self) -> None:
        section = type(self).__name__.lower().removesuffix("settings")
        for name, kind in typing.get_type_hints(type(self), include_extras=True).items():
            for allowed in getattr(kind, "__metadata__", ()):
                value = getattr(self, name)
                if not allowed.low <= value <= allowed.high:
                    raise ConfigError(f"{section}.{name} is {allowed.what}, not {value}.")
