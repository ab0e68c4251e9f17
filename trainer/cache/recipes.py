"""Which encodings of a run's pictures are kept, and what each depends on.

A row is found by its key: a hash of the bytes of the files it was made of and of the words for what was done to their
pixels (`part_key`; the data set finds the words). The rows of one kind lie in the store of their recipe: the weights of
the encoder (a hash of the tensors, wherever the file lies and whatever else it holds), the arithmetic, and VERSION. A
changed picture, cut, size, mask or encoder is therefore another key or another store. There is nothing to invalidate
and nothing that could go stale; what is not found is computed.

What changes with every step cannot be kept: tokens of references that are bent (data.deform), and what depends on a
figure mask that is changed at random or has greys (a threshold is drawn for every step).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from colorize import names
from trainer.cache.store import digest
from trainer.config import Config, ConfigError
from trainer.models import checkpoint
from trainer.models.frozen import autoencoder_file

VERSION = 1
"""Goes up when the code between a file and its row changes what comes out."""


@dataclass(frozen=True)
class Kind:
    """One kind of encoding."""

    parts: tuple[str, ...]
    """Parts of a sample that it is made of; the first one is the picture that is encoded."""
    number: str
    """Key of the batch that numbers its pictures."""


KINDS = {
    "latents": Kind(("color",), "index"),
    "white_latents": Kind(("color", "mask"), "index"),
    "tokens": Kind(("reference",), "reference_index"),
    "background_tokens": Kind(("reference", "reference_mask"), "reference_index"),
    "clip_tokens": Kind(("reference",), "reference_index"),
    "tagger_tokens": Kind(("reference",), "reference_index"),
}
"""Moments of the autoencoder for a picture, and for it with a white background (background bleaching); local tokens of
a reference, and of it without its figure. The second of each pair needs masks of 0 and 255 only: with grey ones it
depends on a threshold that is drawn for every step, and is computed there. The last two are XL's two views of a
reference: all tokens of the encoder, and those of the tagger."""

WHITE_KEY = digest(b"a white reference")
"""Of the tokens of a white reference, which bleached samples read."""


def part_key(content: bytes, part: str, changes: str) -> bytes:
    """Key of a part of a sample: of its file's bytes, and of what was done to its pixels, in words."""
    return digest(content, part.encode(), changes.encode())


def row_key(keys: Mapping[str, bytes], kind: str) -> bytes:
    """Key of an encoding from the keys of the sample's parts."""
    return digest(*(keys[part] for part in KINDS[kind].parts))


def recipes(config: Config, kinds: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Kind -> what its rows are made with."""
    vae = autoencoder_digest(autoencoder_file(config))
    encoders = {"encoder": encoder_digest(config.model.encoder)}
    if "tagger_tokens" in kinds:
        encoders["tagger"] = encoder_digest(config.model.tagger)
    shared = {"version": VERSION, "values": config.data.cache_values}
    made = {}
    for kind in kinds:
        recipe: dict[str, Any] = {"kind": kind, **shared}
        if KINDS[kind].parts[0] == "color":
            recipe |= {"autoencoder": vae, "precision": config.system.precision}
        else:
            name = "tagger" if kind == "tagger_tokens" else "encoder"
            recipe |= {name: encoders[name], "precision": "fp32"}
        if kind == "tokens" and config.model.tokens != "local":
            recipe["tokens"] = config.model.tokens
        if kind == "background_tokens":
            recipe["mask_cell"] = list(config.data.reference_mask_cell)
        made[kind] = recipe
    return made


# -- hashes of weights -------------------------------------------------------------------------------------------------


def autoencoder_digest(path: str) -> str:
    """Hash of the autoencoder in a file; the same whether it lies there alone or inside a whole model."""
    return _weights_digest(Path(path), names.VAE, with_metadata=False)


def encoder_digest(path: str) -> str:
    """Hash of a reference encoder's file: its tensors, and its metadata, which may name the width of a head."""
    return _weights_digest(Path(path), "", with_metadata=True)


def _weights_digest(path: Path, prefix: str, with_metadata: bool) -> str:
    """Hash of names, kinds, shapes and values of the tensors below `prefix`, or of all where nothing has it.

    Reads one tensor after the other, so a large file needs little memory.
    """
    if path.suffix != ".safetensors" or not path.is_file():
        tensors, metadata = checkpoint.read_tensors(path)
        return _digest_of(tensors.keys(), tensors.__getitem__, metadata if with_metadata else {}, prefix)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {} if with_metadata else {}
            return _digest_of(file.keys(), file.get_tensor, metadata, prefix)
    except SafetensorError as error:
        raise ConfigError(f"{path} is not a whole safetensors file ({error}); download or export it again.") from None


def _digest_of(
    names: Iterable[str], read: Callable[[str], torch.Tensor], metadata: Mapping[str, str], prefix: str
) -> str:
    names = list(names)
    chosen = sorted(name for name in names if name.startswith(prefix)) or sorted(names)
    hashed = hashlib.blake2b(digest_size=16)
    for name in chosen:
        tensor = read(name).contiguous()
        hashed.update(f"{name.removeprefix(prefix)} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hashed.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    for name in sorted(metadata):
        hashed.update(f"{name}={metadata[name]}\n".encode())
    return hashed.hexdigest()
