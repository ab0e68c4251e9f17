"""Files that can be read but hold no network of ours: an error of the user's, with a sentence."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from trainer.config import ConfigError

P = ParamSpec("P")
T = TypeVar("T")


def refuses_other_files(what: str, advice: str = "") -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorator of a function that builds a network from a file: what the file lacks becomes a ConfigError.

    what: the file as the message calls it. advice: the next step, behind it.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def wrapper(*arguments: P.args, **keywords: P.kwargs) -> T:
            try:
                return function(*arguments, **keywords)
            except (ConfigError, torch.OutOfMemoryError):
                raise
            except (ValueError, LookupError, ArithmeticError, AttributeError, TypeError, RuntimeError) as error:
                first = " ".join(str(error).split())[:400]  # with the names that torch lists on lines of their own
                raise ConfigError(f"{what} cannot be used: {first}{advice and f' ({advice})'}") from error

        return wrapper

    return decorate
