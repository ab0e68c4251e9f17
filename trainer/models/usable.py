"""Files that can be read but hold no network of ours: an error of the user's, with a sentence."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from trainer.config import ConfigError

P, T = ParamSpec("P"), TypeVar("T")


def refuses_other_files(what: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorator of a function that builds a network from a file: what the file lacks becomes a ConfigError.

    what: the file as the message calls it.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def wrapper(*arguments: P.args, **keywords: P.kwargs) -> T:
            try:
                return function(*arguments, **keywords)
            except (ConfigError, torch.OutOfMemoryError):
                raise
            except (ValueError, LookupError, RuntimeError) as error:
                first = str(error).partition("\n")[0][:400]
                raise ConfigError(f"{what} cannot be used: {first}") from error

        return wrapper

    return decorate
