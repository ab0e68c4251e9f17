"""Reference cards: one safetensors file with everything a REFERENCE holds, so that it is used again without encoders.

Tensors: tokens, background_tokens, regions.I.tokens, regions.I.mask, encoder_mark; for XL models also those of
XL_TENSORS, and of XL_REGION_TENSORS below regions.I. The metadata entry `colorize.card` is JSON: format, image_size,
fit, background, regions, levels, edits, tags, palette, preprocessing. Torch and safetensors only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..families import Family
from .fitting import FIT_MODES
from .types import SECOND_TOWERS, LevelStrengths, Reference, Region
from .vision import CLIP_MEAN, CLIP_STD, ReferenceEncoder
from .wd_tagger import WDTagger

FORMAT = 1
ENTRY = "colorize.card"

MARK_LENGTH = 64
SAME_ENCODER = 0.05  # relative distance of two marks; half precision stays below 0.005, other encoders lie above 1
# What references for XL and CLS models hold besides: fields of Reference and of Region.
XL_TENSORS = ("tagger_tokens", "tagger_mark", "background_class_token", "background_tagger_tokens")
XL_REGION_TENSORS = ("class_token", "tagger_tokens")
STRONGEST = 2.0  # of any strength: what the nodes allow
LARGEST_IMAGE = 4096  # pixels an encoder reads; published ones read 224 to 512
MOST_LAYERS = 512  # cross-attentions; XL has 70
MOST_WORDS, LONGEST_WORD = 4096, 4096
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x9b]")  # escapes that a terminal obeys; not tab and line feed


class CardError(ValueError):
    """A card that cannot be used; the text says what to do."""


# -- recognising encoder and preprocessing -----------------------------------------------------------------------------


def encoder_mark(encoder: ReferenceEncoder) -> torch.Tensor:
    """(64,) numbers that tell an encoder from others: evenly spread ones of its projection. The same encoder in half
    precision has nearly the same mark; see `same_encoder`."""
    return _mark(encoder.visual.proj)


def tagger_mark(tagger: WDTagger) -> torch.Tensor:
    """The same for a tagger: (64,) numbers of its classifier."""
    return _mark(tagger.model.head.fc.weight)


def _mark(weight: torch.Tensor) -> torch.Tensor:
    values = weight.detach().flatten()
    places = torch.linspace(0, values.numel() - 1, MARK_LENGTH, dtype=torch.float64).long()
    return values[places.to(values.device)].float().cpu()


def same_encoder(mark: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two marks belong to one encoder, whatever the precision of its file."""
    if mark.shape != other.shape or not bool(torch.isfinite(mark).all() & torch.isfinite(other).all()):
        return False
    scale = torch.maximum(mark.norm(), other.norm())
    return bool((mark - other).norm() <= SAME_ENCODER * scale)


def preprocessing_hash(reference: Reference) -> str:
    """16 hexadecimal digits of all that decides how a picture became these tokens, but for the encoder's weights."""
    facts = {
        "resize": "bicubic, corners aligned, antialiased, not clamped",
        "mean": CLIP_MEAN,
        "std": CLIP_STD,
        "fit": reference.fit,
        "image_size": reference.image_size,
        "tokens": list(reference.tokens.shape[1:]),
    }
    if reference.tagger_tokens is not None:
        how = {"tagger": "BGR, squashed, bicubic, corners aligned, antialiased", "clip": "as the encoder's"}
        facts[reference.second_tower] = [how[reference.second_tower], *reference.tagger_tokens.shape[1:]]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def check_encoder(reference: Reference, encoder: ReferenceEncoder, name: str, encoder_name: str) -> None:
    """Raise CardError when the tokens are not of this ReferenceEncoder. Without a mark only sizes are compared."""
    sizes = (encoder.image_size, encoder.token_count, encoder.output_dim)
    found = (reference.image_size, reference.tokens.shape[1], reference.width)
    different = found != sizes
    if not different and reference.encoder_mark is not None:
        different = not same_encoder(reference.encoder_mark, encoder_mark(encoder))
    if different:
        raise CardError(
            f"{name} was made with another encoder ({_sizes(found)}) than {encoder_name} ({_sizes(sizes)}). Load the "
            "encoder of the card, or encode the reference again and save a new card."
        )


def check_family(reference: Reference, family: Family, name: str, model_name: str) -> None:
    """Raise CardError when a model of this family cannot read the tokens."""
    advice = "Encode the reference with the encoder of this model and save a new card."
    if family.reference_dim != reference.width:
        raise CardError(
            f"{name} has tokens of width {reference.width}, the model {model_name} reads width {family.reference_dim}: "
            f"the card was made with another encoder. {advice}"
        )
    if not family.is_xl:
        return
    found = None if reference.tagger_tokens is None else reference.tagger_tokens.shape[2]
    if found != family.tagger_dim or reference.second_tower != family.second_tower:
        features = {"tagger": "tagger features", "clip": "tokens of a second CLIP"}
        wanted, own = features[family.second_tower], features[reference.second_tower]
        has = f"no {wanted}" if found is None else f"{own} of width {found}"
        reads = "" if found is None or own == wanted else f"{wanted} of "
        network = "tagger" if family.second_tower == "tagger" else "second encoder"
        raise CardError(
            f"{name} has {has}, the model {model_name} reads {reads}width {family.tagger_dim}: it was made without the "
            f"{network} of this model. Connect that {network} to Encode Reference, and save a new card."
        )


def check_tagger(reference: Reference, tagger: WDTagger, name: str, tagger_name: str) -> None:
    """Raise CardError when a reference's tagger features are not of this WDTagger, or when it has none."""
    if reference.tagger_tokens is None:
        raise CardError(
            f"{name} has no tagger features. Encode the reference again with {tagger_name} connected to Encode "
            "Reference, and save a new card."
        )
    other = reference.tagger_mark is None or not same_encoder(reference.tagger_mark, tagger_mark(tagger))
    if other or reference.second_tower != "tagger":
        raise CardError(
            f"{name} was made with another tagger than {tagger_name}. Load the tagger of the card, or encode the "
            "reference again and save a new card."
        )


def _sizes(sizes: tuple[int, int, int]) -> str:
    return "{} pixels, {} tokens of width {}".format(*sizes)


# -- writing and reading -----------------------------------------------------------------------------------------------


def save_card(reference: Reference, path: str) -> None:
    """Write a card; an existing file is replaced only when the new one is complete. Raises OSError."""
    tensors = {"tokens": reference.tokens}
    for name in ("background_tokens", "encoder_mark", *XL_TENSORS):
        if (value := getattr(reference, name)) is not None:
            tensors[name] = value
    for index, region in enumerate(reference.regions):
        tensors[f"regions.{index}.tokens"] = region.tokens
        for name in XL_REGION_TENSORS:
            if (value := getattr(region, name)) is not None:
                tensors[f"regions.{index}.{name}"] = value
        tensors[f"regions.{index}.mask"] = _packed(region.mask)
    facts = {
        "format": FORMAT,
        "image_size": reference.image_size,
        "fit": reference.fit,
        "background": {
            "is_picture": reference.background_is_picture,
            "threshold": reference.background_threshold,
        },
        "regions": [{"strength": region.strength} for region in reference.regions],
        "levels": asdict(reference.levels),
        "edits": reference.edits,
        "tags": reference.tags,
        "palette": reference.palette,
        **({} if reference.second_tower == SECOND_TOWERS[0] else {"second_tower": reference.second_tower}),
        "preprocessing": preprocessing_hash(reference),
    }
    owned = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    unfinished = f"{path}.part"
    try:
        save_file(owned, unfinished, metadata={ENTRY: json.dumps(facts, ensure_ascii=False)})
        os.replace(unfinished, path)
    finally:
        if os.path.exists(unfinished):
            os.remove(unfinished)


def _packed(mask: torch.Tensor) -> torch.Tensor:
    """A mask as bytes where that loses nothing: masks come from pictures with 256 levels."""
    levels = (mask.float() * 255).round()
    return levels.to(torch.uint8) if torch.allclose(levels / 255, mask.float(), atol=1e-6, rtol=0) else mask.float()


def load_card(path: str) -> Reference:
    """Read a card. Raises CardError for files that are none, damaged ones, and those of another preprocessing."""
    name = os.path.basename(path)
    tensors, facts = _read(path, name)
    try:
        reference = _reference(tensors, facts)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, RuntimeError) as error:
        detail = f"{type(error).__name__}: {error}".replace("\n", " ")[:200]
        raise CardError(
            f"The reference card {name!r} is not complete ({detail}). Save it again with Save Reference."
        ) from error
    if (expected := preprocessing_hash(reference)) != facts.get("preprocessing"):
        raise CardError(
            f"The reference card {name!r} was made with another preprocessing (its hash is "
            f"{facts.get('preprocessing')}, ours {expected}), so its tokens mean something else to the models. Encode "
            "the reference again and save a new card."
        )
    return reference


def _read(path: str, name: str) -> tuple[dict[str, torch.Tensor], Mapping]:
    if not os.path.isfile(path):
        raise CardError(f"There is no reference card {name!r}. Refresh the node list (R) and choose again.")
    try:
        with safe_open(path, "pt", device="cpu") as file:
            text = (file.metadata() or {}).get(ENTRY)
            # Other files can be large: they are recognised before any of their tensors is read.
            tensors = {key: file.get_tensor(key) for key in file.keys()} if text else {}
    except (SafetensorError, OSError, ValueError, OverflowError, MemoryError) as error:
        raise CardError(
            f"The file {name!r} cannot be read as a reference card: it is damaged or no safetensors file ({error}). "
            "Save the reference again with Save Reference."
        ) from error
    if text is None:
        raise CardError(f"The file {name!r} is no reference card. Choose one that Save Reference has written.")
    try:
        facts = json.loads(text, parse_constant=_no_constant)
        newest = int(facts["format"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CardError(
            f"The reference card {name!r} is damaged: its description cannot be read. Save it again with Save "
            "Reference."
        ) from error
    if newest != FORMAT:
        raise CardError(
            f"The reference card {name!r} has the format {newest}, this version of the node pack reads {FORMAT}. "
            "Update the node pack, or save the reference again with Save Reference."
        )
    return tensors, facts


def _reference(tensors: Mapping[str, torch.Tensor], facts: Mapping) -> Reference:
    tokens = _tokens(tensors["tokens"], "tokens")
    background = tensors.get("background_tokens")
    regions = []
    for index, region in enumerate(facts["regions"]):
        mask = tensors[f"regions.{index}.mask"]
        if mask.dtype != torch.uint8 and not mask.is_floating_point():
            raise ValueError(f"the mask of region {index} holds {mask.dtype}")
        mask = mask.float() / 255 if mask.dtype == torch.uint8 else mask.float()
        if mask.ndim != 3 or not bool(torch.isfinite(mask).all()):
            raise ValueError(f"the mask of region {index} has the shape {tuple(mask.shape)} or holds NaN")
        own = _tokens(tensors[f"regions.{index}.tokens"], f"the tokens of region {index}", tokens.shape[2])
        more = {
            name: _tokens(tensors[f"regions.{index}.{name}"], f"{name} of region {index}")
            for name in XL_REGION_TENSORS
            if f"regions.{index}.{name}" in tensors
        }
        regions.append(Region(own, mask.clamp(0, 1), _number(region["strength"], STRONGEST), **more))
    if facts["fit"] not in FIT_MODES:
        raise ValueError(f"fit is {facts['fit']!r}")
    mark = tensors.get("encoder_mark")
    return Reference(
        tokens=tokens,
        image_size=int(_number(facts["image_size"], LARGEST_IMAGE, lowest=1)),
        fit=facts["fit"],
        background_tokens=None if background is None else _tokens(background, "background_tokens", tokens.shape[2]),
        background_is_picture=bool(facts["background"]["is_picture"]),
        background_threshold=_number(facts["background"]["threshold"], 1),
        regions=tuple(regions),
        levels=_levels(facts["levels"]),
        edits=_words(facts["edits"]),
        tags=_words(facts["tags"]),
        palette=_words(facts["palette"]),
        encoder_mark=None if mark is None else _read_mark(mark, "encoder_mark"),
        **_xl_parts(tensors),
        second_tower=_second_tower(facts),
    )


def _second_tower(facts: Mapping) -> str:
    tower = facts.get("second_tower", SECOND_TOWERS[0])
    if tower not in SECOND_TOWERS:
        raise ValueError(f"second_tower is {tower!r:.40}")
    return tower


def _xl_parts(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    parts = {name: tensors[name] for name in XL_TENSORS if name in tensors}
    return {
        name: _read_mark(value, name) if name == "tagger_mark" else _tokens(value, name)
        for name, value in parts.items()
    }


def _tokens(value: torch.Tensor, name: str, width: int | None = None) -> torch.Tensor:
    if not value.is_floating_point():
        raise ValueError(f"{name} holds {value.dtype}, not numbers with fractions")
    value = value.float()
    if value.ndim != 3 or 0 in value.shape or (width or value.shape[2]) != value.shape[2]:
        raise ValueError(f"{name} has the shape {tuple(value.shape)}")
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name} holds NaN or infinite values")
    return value


def _read_mark(value: torch.Tensor, name: str) -> torch.Tensor:
    if not value.is_floating_point() or value.numel() != MARK_LENGTH or not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name} is not {MARK_LENGTH} finite numbers")
    return value.float().flatten()


def _number(value: Any, highest: float, lowest: float = 0) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not lowest <= value <= highest:
        raise ValueError(f"{value!r:.40} is no number from {lowest:g} to {highest:g}")
    return float(value)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _levels(values: Mapping) -> LevelStrengths:
    known = {field.name for field in fields(LevelStrengths)}
    numbers = {name: _number(values[name], STRONGEST) for name in known - {"layers"}}
    layers = values["layers"]
    if not isinstance(layers, list) or len(layers) > MOST_LAYERS:
        raise ValueError(f"layers is no list of up to {MOST_LAYERS} numbers")
    return LevelStrengths(**numbers, layers=tuple(_number(value, STRONGEST) for value in layers))


def _words(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"expected a list of words, not {values!r:.100}")
    if len(values) > MOST_WORDS or any(len(word) > LONGEST_WORD or CONTROL.search(word) for word in values):
        raise ValueError(f"more than {MOST_WORDS} words, longer than {LONGEST_WORD} letters, or control characters")
    return tuple(values)


def annotated(
    reference: Reference,
    tags: str = "",
    palette: tuple[str, ...] = (),
    mark: torch.Tensor | None = None,
) -> Reference:
    """REFERENCE with further tags (commas between them), and with a palette and an encoder mark where given."""
    words = [word.strip() for word in tags.replace("、", ",").replace("，", ",").replace("\n", ",").split(",")]
    return replace(
        reference,
        tags=tuple(dict.fromkeys([*reference.tags, *(word for word in words if word)])),
        palette=palette or reference.palette,
        encoder_mark=reference.encoder_mark if mark is None else mark,
    )


def describe(reference: Reference) -> str:
    """What a reference holds, as lines of text."""
    batch, tokens, width = reference.tokens.shape
    background = "none"
    if reference.background_tokens is not None:
        background = "from a picture of its own" if reference.background_is_picture else "of the reference"
    lines = [
        f"references: {batch}, {tokens} tokens of width {width}, {reference.image_size} pixels, {reference.fit}",
        f"background: {background}; added figures: {len(reference.regions)}",
    ]
    if reference.tagger_tokens is not None:
        count, tagger_width = reference.tagger_tokens.shape[1:]
        network = "tagger" if reference.second_tower == "tagger" else "second encoder"
        lines.append(f"{network}: {count} tokens of width {tagger_width}, for XL models")
    changed = {name: value for name, value in asdict(reference.levels).items() if value not in (1, ())}
    if changed:
        lines.append(f"strengths: {', '.join(f'{name} {value}' for name, value in changed.items())}")
    lines += [f"edit {number}: {edit}" for number, edit in enumerate(reference.edits, 1)]
    if reference.tags:
        lines.append(f"tags: {', '.join(reference.tags)}")
    if reference.palette:
        lines.append(f"palette: {', '.join(reference.palette)}")
    return "\n".join(lines)
