"""How a model is best sampled: sampler, scheduler, steps and guidance, as its file says or as its family wants it.

The one home of these numbers: the trainer writes them into files, templates and quickstart.py take them, Preflight
compares a graph's sampler with them. docs/RESULTS.md has what was measured. No torch: quickstart.py reads it without.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from . import names

MOST_STEPS = 1000
HIGHEST_CFG = 100.0


@dataclass(frozen=True)
class SamplerSettings:
    """What a KSampler is set to, in its own words."""

    sampler: str
    scheduler: str
    steps: int
    cfg: float
    """Reference guidance scale; 1 is none."""

    def words(self) -> str:
        """For people, as the sampler's widgets are called."""
        steps = f"{self.steps} step{'' if self.steps == 1 else 's'}"
        return f"{steps}, cfg {self.cfg:g}, sampler {self.sampler}, scheduler {self.scheduler}"

    def header(self) -> dict[str, str]:
        """The metadata entry of a model's file."""
        return {names.SAMPLER_FACTS: json.dumps(asdict(self))}


SMALL = SamplerSettings("euler", "simple", 4, 2.0)
"""Of U-Nets narrower than families.SMALL_WIDTH, measured on the bundled one."""
PAPER = SamplerSettings("dpmpp_2m", "simple", 20, 4.0)
"""Of v1, v1.5 and v2: DPM++ 2M on the training schedule in 20 steps (v1, Table 1)."""
PAPER_XL = SamplerSettings("dpmpp_3m_sde", "exponential", 20, 4.0)
"""Of XL, as the released application."""


def of_family(is_small: bool, is_xl: bool) -> SamplerSettings:
    """What a file is sampled with that says nothing about it."""
    return SMALL if is_small else PAPER_XL if is_xl else PAPER


def stated(metadata: Mapping[str, str]) -> SamplerSettings | None:
    """What a file's metadata says, a student's facts before a model's; None where it says nothing that makes sense."""
    for entry in (names.DISTILLED_FACTS, names.SAMPLER_FACTS):
        if (found := read(metadata.get(entry))) is not None:
            return found
    return None


def read(text: str | None) -> SamplerSettings | None:
    """Settings out of a metadata entry, a table in JSON; None for one that cannot be meant."""
    try:
        facts = json.loads(text or "")
        found = SamplerSettings(
            _word(facts["sampler"]), _word(facts["scheduler"]), int(facts["steps"]), float(facts["cfg"])
        )
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return None
    sensible = 1 <= found.steps <= MOST_STEPS and math.isfinite(found.cfg) and 0 < found.cfg <= HIGHEST_CFG
    return found if sensible else None


def _word(value: object) -> str:
    """A name of a sampler or a scheduler; it is shown to people, so it is short and has no odd letters."""
    if not isinstance(value, str) or not 1 <= len(value) <= 40 or not value.replace("_", "").isalnum():
        raise ValueError("no name")
    return value
