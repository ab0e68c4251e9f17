"""Which function answers which golden case, and how answers are compared.

A case module registers a function per side:

    @case("schedule")                  # side="torch" is the default, side="comfy" runs inside a ComfyUI process
    def schedule(golden, check):
        check("betas", NoiseSchedule().betas)
        check.skip("k.*", "samplers of k-diffusion are ComfyUI's own")

`check(name, tensor)` compares with the recorded output of that name. Outputs that are neither checked nor skipped are
shown as not implemented, so a case that answers only a part of its outputs says so in the table.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase

import torch

from .files import Golden

SIDES = ("torch", "comfy")

_CASES: dict[tuple[str, str], Callable] = {}


@dataclass(frozen=True)
class Tolerance:
    """An answer passes when |answer - recorded| <= absolute + relative * |recorded| in every element."""

    absolute: float = 1e-4
    relative: float = 0.0

    def __str__(self) -> str:
        return f"{self.absolute:.0e}" + (f" + {self.relative:.0e} rel" if self.relative else "")


def suggested_tolerance(golden: Golden) -> Tolerance:
    """What the file's author measured as safe; 1e-4 when the file says nothing."""
    given = golden.config.get("suggested_tol")
    if given is None:
        return Tolerance()
    if isinstance(given, dict):
        return Tolerance(given.get("atol", 0.0), given.get("rtol", 0.0))
    return Tolerance(float(given))


@dataclass
class Outcome:
    """The row of one case on one side."""

    case: str
    side: str
    total: int = 0
    """Outputs the file records."""
    errors: dict[str, float] = field(default_factory=dict)
    """Largest absolute error of each compared output; inf when its shape is wrong or it is not finite."""
    over: list[str] = field(default_factory=list)
    """What went wrong, one line each. Empty = passed."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Output (or pattern) -> why it is not compared."""
    unanswered: list[str] = field(default_factory=list)
    tolerance: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return not self.over

    @property
    def worst(self) -> float:
        return max(self.errors.values(), default=0.0)

    def to_dict(self) -> dict:
        return asdict(self)


class Check:
    """Collects and compares the answers of one case; handed to the case's function."""

    def __init__(self, golden: Golden, outcome: Outcome, tolerance: Tolerance):
        self._golden, self._outcome, self._tolerance = golden, outcome, tolerance
        self._patterns: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        """Whether the file records an output of this name."""
        return name in self._golden.outputs

    def names(self, pattern: str = "*") -> list[str]:
        """Recorded outputs that match a shell pattern."""
        return [name for name in self._golden.outputs if fnmatchcase(name, pattern)]

    def __call__(self, name: str, answer: torch.Tensor, tolerance: Tolerance | None = None) -> None:
        """Compare an answer with the recorded output `name`; nothing happens when the file does not record it."""
        tolerance = tolerance or self._tolerance
        outcome, recorded = self._outcome, self._golden.outputs.get(name)
        if recorded is None:
            return
        outcome.errors[name] = float("inf")
        answer = torch.as_tensor(answer).detach().cpu()
        if answer.shape != recorded.shape:
            outcome.over.append(f"{name}: shape {tuple(answer.shape)}, recorded {tuple(recorded.shape)}")
            return
        answer, recorded = answer.double(), recorded.double()
        if not torch.isfinite(answer).all() and torch.isfinite(recorded).all():
            outcome.over.append(f"{name}: the answer is not finite")
            return
        error = (answer - recorded).abs()
        error[answer == recorded] = 0.0  # equal infinities
        outcome.errors[name] = error.max().item() if error.numel() else 0.0
        if (error > tolerance.absolute + tolerance.relative * recorded.abs()).any():
            outcome.over.append(f"{name}: off by {outcome.errors[name]:.3g}, allowed {tolerance}")

    def skip(self, pattern: str, reason: str) -> None:
        """Say why the outputs that match a shell pattern are not compared."""
        if self.names(pattern):
            self._patterns[pattern] = reason

    def finish(self) -> None:
        """Sort what was not compared into skipped and unanswered."""
        for name in self._golden.outputs:
            if name in self._outcome.errors:
                continue
            reason = next((reason for pattern, reason in self._patterns.items() if fnmatchcase(name, pattern)), None)
            if reason is None:
                self._outcome.unanswered.append(name)
            else:
                self._outcome.skipped[name] = reason
        if not self._outcome.errors and self._outcome.unanswered:
            self._outcome.over.append("the file has none of the outputs this case answers")


def case(*names: str, side: str = "torch") -> Callable:
    """Register the decorated function(golden, check) as the answer to the cases `names` on one side."""
    if side not in SIDES:
        raise ValueError(f"Side {side!r} is unknown; choose one of {SIDES}.")

    def register(function: Callable) -> Callable:
        for name in names:
            if (name, side) in _CASES:
                raise ValueError(f"Two functions answer the golden case {name!r} on the side {side!r}.")
            _CASES[name, side] = function
        return function

    return register


def cases() -> dict[tuple[str, str], Callable]:
    """(case, side) -> function, after importing every module of `cases/`."""
    package = importlib.import_module(".cases", __package__)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return _CASES
