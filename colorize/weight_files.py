"""Weight files of strangers: what is refused before a file is read, and before its tensors are used. Raises ValueError.

Safetensors files hold numbers and text only. The other kinds (.ckpt, .pt, .pth, .bin) are pickles: torch's weights_only
mode runs no code of theirs, if torch is new enough, and what they unpack to is limited here.
"""

from __future__ import annotations

import functools
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import ParamSpec, TypeVar, overload

import torch
from torch import nn

P = ParamSpec("P")
T = TypeVar("T")

SAFETENSORS = (".safetensors", ".sft")
SAFE_TORCH = (2, 10)
"""weights_only reading could be made to run code before 2.6 (CVE-2025-32434) and to corrupt memory before 2.10
(CVE-2026-24747)."""
SMALL = 2**20  # bytes: below this nothing is refused for its size
UNPACKED = 2  # times the file's size: torch stores its tensors as they are
MOST_BLOCKS = 512  # of a kind in one network; the largest published ones have fewer than 100
SHARED = 4  # times the file's size: names may share tensors (tied weights), but not all of them one


def check_before_reading(path: str | Path) -> None:
    """Raise ValueError for a file that torch must not be asked to read: an old torch, an archive that explodes."""
    path = Path(path)
    if path.suffix.lower() in SAFETENSORS:
        return
    if _version(torch.__version__) < SAFE_TORCH:
        raise ValueError(
            f"The file {path.name!r} is no .safetensors file, and the torch that is installed here "
            f"({torch.__version__}) can be made to run code or corrupt memory by such a file. Use the .safetensors "
            "version of the file (https://huggingface.co/spaces/safetensors/convert makes one), or update torch to "
            f"{'.'.join(map(str, SAFE_TORCH))} or newer."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
    except (OSError, ValueError, ArithmeticError, MemoryError, NotImplementedError, zipfile.BadZipFile):
        return  # no zip file, or a damaged one: whoever reads it says so
    if unpacked > UNPACKED * os.path.getsize(path) + SMALL:
        raise ValueError(
            f"The file {path.name!r} of {os.path.getsize(path)} bytes would unpack to {unpacked}; files of weights are "
            "stored as they are. It was made to fill the memory: do not use it."
        )


def check_tensors(tensors: Mapping[str, torch.Tensor], size: int, name: str) -> None:
    """Raise ValueError when tensors of a file of `size` bytes claim more numbers than the file holds.

    A stride of 0 makes a tensor of gigabytes of one number, which the first copy of it would write out.
    """
    total = 0
    for key, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise ValueError(
                f"The file {name!r} has a tensor of another kind than plain numbers ({key[:100]}). Use the "
                ".safetensors version."
            )
        if tensor.ndim > 1 and 0 in tensor.shape:
            raise ValueError(
                f"The file {name!r} has an empty tensor {key[:100]!r} of shape {tuple(tensor.shape)}. It is damaged or "
                "was made to do harm: download it again from where the model is published."
            )
        claimed = tensor.numel() * tensor.element_size()
        total += claimed
        if claimed > tensor.untyped_storage().nbytes() or total > SHARED * size + SMALL:
            raise ValueError(
                f"The file {name!r} has {size} bytes, but its tensors claim more numbers than it holds, for example "
                f"{key[:100]!r} of shape {tuple(tensor.shape)}. It was made to fill the memory: do not use it."
            )


def count_numbered(numbers: Iterable[str | int], what: str) -> int:
    """How many blocks a file has by the numbers in its tensors' names; ValueError unless they are 0, 1, ... n-1.

    what: the blocks as the message calls them.
    """
    words = {str(number) for number in numbers}
    found = {int(word) if word.isascii() and word.isdigit() and len(word) < 10 else -1 for word in words}
    if not found or len(found) > MOST_BLOCKS or found != set(range(len(found))):
        shown = ", ".join(map(str, sorted(found)[:10])) or "none"
        raise ValueError(
            f"The file has {what} with the numbers {shown}{', ...' if len(found) > 10 else ''}; expected 0 to n-1 "
            f"without gaps, n at most {MOST_BLOCKS}. It is damaged or not complete: download it again."
        )
    return len(found)


@overload
def metadata_number(metadata: Mapping[str, str] | None, key: str, default: int, low: int, high: int) -> int: ...
@overload
def metadata_number(metadata: Mapping[str, str] | None, key: str, default: None, low: int, high: int) -> int | None: ...
def metadata_number(
    metadata: Mapping[str, str] | None, key: str, default: int | None, low: int, high: int
) -> int | None:
    """A whole number of a file's metadata; `default` without the entry. ValueError outside low..high."""
    if metadata is None or key not in metadata:
        return default
    text = str(metadata[key])
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    if not low <= number <= high:
        raise ValueError(f"The file's metadata {key} is {text[:40]!r}; expected a whole number from {low} to {high}.")
    return number


def check_fits(build: Callable[[], nn.Module], weights: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError unless `weights` are what `build()` has, by names and shapes; built without memory.

    Sizes are read from several tensors; the network that a forged file asks for need not be in the file.
    """
    with torch.device("meta"):
        expected = build().state_dict()
    counters = {key for key in expected if key.endswith("num_batches_tracked")}  # not stored by old versions of torch
    if missing := sorted(expected.keys() - weights.keys() - counters):
        raise ValueError(f"{len(missing)} tensors are missing in the file, for example {missing[0]}.")
    for key in expected.keys() - counters:
        if expected[key].shape != weights[key].shape:
            shapes = f"{tuple(weights[key].shape)}, expected {tuple(expected[key].shape)}"
            raise ValueError(f"{key} has the shape {shapes}.")


def reads_strange_sizes(what: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorator of a function that builds a network from the sizes of a file's tensors: sizes of which no network can
    be built (0, 0 dimensions, heads that do not divide) become a ValueError that names `what`."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def wrapper(*arguments: P.args, **keywords: P.kwargs) -> T:
            try:
                return function(*arguments, **keywords)
            except torch.OutOfMemoryError:
                raise
            except (LookupError, ArithmeticError, AttributeError, AssertionError, TypeError, RuntimeError) as error:
                first = " ".join(str(error).split())[:200]  # with the names that torch lists on lines of their own
                raise ValueError(
                    f"The sizes of its tensors make no {what} ({type(error).__name__}: {first}). The file is damaged, "
                    "or holds another network: download it again."
                ) from error

        return wrapper

    return decorate


def _version(text: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", str(text))
    return (int(found[1]), int(found[2])) if found else (0, 0)
