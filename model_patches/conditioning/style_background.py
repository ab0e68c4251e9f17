"""Style and background of v2: two encoders read pictures once, and the drawing's decoder follows what they saw.

The style encoder answers a vector and the background encoder tokens for every output block (picture_encoder.py and
decoder_guide.py). Both ride in the conditioning like the banks of XL's background plugin, the same in
positive and negative. Source: released code, observed, with two deviations: the VAE's answer is its mean (released: a
sample, so that results depend on noise), and a background picture is always read with its own tokens (variant
"released": not beside a style).

| released switches       | mode of Apply Reference | style picture | background picture                   |
| none, FG enhance        | vanilla, masked vanilla |               |                                      |
| style                   | vanilla                 | the reference |                                      |
| style + background      | vanilla                 | the reference | merged into the style by `merge`     |
| BG enhance              | fig2fig                 |               | the reference without figure, or one |
| BG enhance + style      | fig2fig                 | the reference | the same                             |
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import comfy.latent_formats
import comfy.model_patcher
import torch

from ...colorize.background.picture_encoder import background_context, merged_styles
from ...colorize.counts import check_counts
from ...colorize.modes import BACKGROUND, REFERENCE_THRESHOLD
from ...colorize.pictures import images
from ...colorize.pictures.figure_masks import check_mask, without_figure
from ...colorize.pictures.masks import squash
from ...colorize.pictures.ranges import model_to_unit
from ...colorize.pictures.sides import sides_of
from ...colorize.reference.types import Reference
from ...colorize.unet import size_embedding
from ..checkpoint.colorizer import Colorizer
from ..checkpoint.managed import read_rows
from ..checkpoint.picture_encoders import NODE, LoadedPictureEncoders
from ..features import StyleAndBackground
from ..payload import Payload, StepSettings
from .latents import size_of


@dataclass(frozen=True)
class StyleSettings:
    """The widgets of Apply Style and Background."""

    mask_threshold: float = REFERENCE_THRESHOLD
    """A pixel of the background picture counts as figure when its mask is not below this, 0..1."""
    background_factor: float = 1.0
    """Factor on the background's tokens, 0..2."""
    merge: float = 0.0
    """Share of the style that a background picture replaces, 0..1."""
    variant: str = "paper"
    """"paper", or "released": beside a style a background picture is read with the reference's tokens."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """The pictures of the node, (B, H, W, C) in 0..1 as ComfyUI has them."""

    style: torch.Tensor | None = None
    background: torch.Tensor | None = None
    figure_mask: torch.Tensor | None = None
    """(B or 1, h, w) 0..1: figures of the background picture, which become white."""


def read_pictures(
    colorizer: Colorizer,
    vae: Any,  # ComfyUI's VAE
    conditioning: list,
    reference: Reference,
    latent: dict,
    pictures: Pictures,
    settings: StyleSettings | None = None,
) -> StyleAndBackground | None:
    """What the encoders see of pictures for drawings of the size of `latent`; None without any picture.

    Pictures are squashed to that size bicubically without antialiasing, as in the released code. Raises ValueError,
    naming what is missing.
    """
    settings = settings or StyleSettings()
    encoders = colorizer.picture_encoders
    if encoders is None:
        raise ValueError(
            f"{colorizer.file_name} is {colorizer.family.title}, without style and background encoders. Load a v2 "
            f"checkpoint (official file names begin with 'v2'), or leave {NODE} out"
            + ("; Apply Background Plugin is the one for XL with plugin." if colorizer.family.is_xl else ".")
        )
    if pictures.style is None and pictures.background is None:
        return None
    warps, merges = _follows_regions(conditioning), pictures.style is not None and settings.merge > 0
    if pictures.background is not None:
        _check_background(warps, merges, reference)
    reader = _Reader(encoders, vae, reference, size_of(latent), settings)
    styles: tuple[torch.Tensor, ...] = ()
    backgrounds: tuple[torch.Tensor, ...] = ()
    if pictures.style is not None:
        styles = reader.styles(pictures.style, pictures)
    if pictures.background is not None and warps:
        backgrounds = reader.backgrounds(pictures.background, pictures)
    tensors = [*backgrounds, *styles]
    if styles and backgrounds:
        check_counts({"style pictures": len(styles[0]), "backgrounds": len(backgrounds[0])})
    count = max(map(len, tensors))
    expanded = (values.expand(count, *(-1 for _ in values.shape[1:])) for values in tensors)
    return StyleAndBackground(tuple(expanded), backgrounds=len(backgrounds))


@dataclass(frozen=True, eq=False)
class _Reader:
    """Shows pictures to the encoders, with the tokens of a reference."""

    encoders: LoadedPictureEncoders
    vae: Any
    reference: Reference
    size: tuple[int, int]
    """Height and width of the drawings in pixels."""
    settings: StyleSettings

    def styles(self, style: torch.Tensor, pictures: Pictures) -> tuple[torch.Tensor, ...]:
        """The style vectors; a background picture of its own is merged into them where that is wanted."""
        own = self.reference.local_tokens
        theirs = self.reference.background_tokens if self.reference.background_is_picture else None
        styles = self._seen(self.encoders.style, style, "style_image", None, own)
        if pictures.background is not None and theirs is not None and self.settings.merge > 0:
            mask = pictures.figure_mask
            other = self._seen(self.encoders.style, pictures.background, "background", mask, theirs)
            styles = tuple(merged_styles(styles, other, self.settings.merge))
        return styles

    def backgrounds(self, background: torch.Tensor, pictures: Pictures) -> tuple[torch.Tensor, ...]:
        """The tokens of the background picture."""
        theirs = self.reference.background_tokens if self.reference.background_is_picture else None
        beside_style = pictures.style is not None
        tokens = background_context(self.reference.local_tokens, theirs, beside_style, self.settings.variant)
        seen = self._seen(self.encoders.background, background, "background", pictures.figure_mask, tokens)
        return tuple(values * self.settings.background_factor for values in seen)

    def _seen(
        self,
        patcher: comfy.model_patcher.ModelPatcher,
        image: torch.Tensor,  # (B, H, W, C) in 0..1
        name: str,  # of the input, for messages
        mask: torch.Tensor | None,
        tokens: torch.Tensor,  # (B or 1, N, D)
    ) -> tuple[torch.Tensor, ...]:
        picture = images.comfy_image_to_model(image, name=name)
        if mask is not None:
            picture = without_figure(picture, check_mask(mask, "figure_mask"), self.settings.mask_threshold)
        check_counts({f"pictures in {name}": len(picture), "references": len(tokens)})
        squashed = model_to_unit(squash(picture, *self.size))  # not clamped, as released
        scaled = comfy.latent_formats.SD15().process_in(self.vae.encode(squashed.movedim(1, -1)).float())
        count = max(len(scaled), len(tokens))
        inputs = [scaled.expand(count, -1, -1, -1), tokens.expand(count, -1, -1)]
        return read_rows(patcher, inputs, size_embedding.ratio_scalars(sides_of(picture), self.size))


def _follows_regions(conditioning: list) -> bool:
    """Whether a conditioning is one of fig2fig: figure and background with their own weights."""
    payloads = [Payload.of(options) for _, options in conditioning]
    return any(
        p is not None and p.settings.split is not None and BACKGROUND in p.settings.split.kinds for p in payloads
    )


def _check_background(warps: bool, merges: bool, reference: Reference) -> None:
    if not warps and not merges:
        raise ValueError(
            "A background needs to know where the figure is in the drawing. Set mode of Apply Reference to fig2fig "
            "and connect figure_mask there. (In the mode vanilla a background is only merged into the style: connect "
            "style_image and set merge above 0.)"
        )
    if reference.background_tokens is None:
        raise ValueError(
            "The reference has no background. In Encode Reference connect the same picture to background, or the "
            "figure_mask of the reference when the reference itself is the background."
        )
    if not warps and not reference.background_is_picture:
        raise ValueError(
            "Only a background picture can be merged into the style. Connect the same picture to background in Encode "
            "Reference, or choose fig2fig in Apply Reference to take over the reference's own background."
        )


def with_features(conditioning: list, features: StyleAndBackground | None, empty: bool = False) -> list:
    """A conditioning whose decoder follows what was seen; None changes nothing. empty: it is the negative one."""
    if features is None:
        return conditioning
    answer = []
    for tokens, options in conditioning:
        payload = Payload.of(options) or Payload(StepSettings(), empty=empty)
        answer.append([tokens, {**options, **replace(payload, features=features).entry()}])
    return answer
