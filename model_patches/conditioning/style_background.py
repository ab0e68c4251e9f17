"""Style and background of v2: two encoders read pictures once, and the drawing's decoder follows what they saw.

The style encoder answers a vector and the background encoder tokens for every output block (picture_encoder.py and
decoder_guide.py of networks). Both ride in the conditioning like the banks of XL's background plugin, the same in
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

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import comfy.latent_formats
import torch

from ...colorize.background.picture_encoder import background_context, merged_styles
from ...colorize.modes import BACKGROUND, REFERENCE_THRESHOLD
from ...colorize.pictures import images
from ...colorize.pictures.figure_masks import check_mask, without_figure
from ...colorize.pictures.masks import squash
from ...colorize.reference.types import Reference
from ...colorize.unet import size_embedding
from ...colorize.unet.decoder_guide import DecoderGuide, figure_split
from ...colorize.unet.split_attention import SplitOptions
from ..checkpoint.colorizer import Colorizer
from ..checkpoint.managed import read_rows
from ..checkpoint.picture_encoders import NODE
from .background_plugin import Banks, size_of
from .conditioning import PAYLOAD, Payload, StepSettings


@dataclass(eq=False)
class PictureGuides(Banks):
    """What the decoder reads: `tensors` holds the backgrounds, then the styles, in the order of the output blocks."""

    backgrounds: int = 0
    """How many of the tensors are background tokens (b, S_i, C_i); the others are style vectors (b, 2 C_i)."""
    node: ClassVar[str] = NODE
    title: ClassVar[str] = "style or background pictures"

    def read(
        self, rows: int, masks: torch.Tensor | None, sizes: Sequence[tuple[int, int]], options: SplitOptions
    ) -> dict[str, Any]:
        """The `DecoderGuide` of one step; arguments as in `Banks.read`."""
        tensors = self.rows(rows)
        split = None if masks is None else figure_split(masks, options.threshold, options.soft)
        return dict(decoder=DecoderGuide(tensors[: self.backgrounds], tensors[self.backgrounds :], split))


@dataclass(frozen=True)
class GuideSettings:
    """The widgets of Apply Style and Background."""

    mask_threshold: float = REFERENCE_THRESHOLD
    """A pixel of the background picture counts as figure when its mask is not below this, 0..1."""
    background_factor: float = 1.0
    """Factor on the background's tokens, 0..2."""
    merge: float = 0.0
    """Share of the style that a background picture replaces, 0..1."""
    variant: str = "paper"
    """"paper", or "released": beside a style a background picture is read with the reference's tokens."""


def read_pictures(
    colorizer: Colorizer,
    vae,
    conditioning: list,
    reference: Reference,
    latent: dict,
    style_image: torch.Tensor | None = None,
    background: torch.Tensor | None = None,
    figure_mask: torch.Tensor | None = None,
    settings: GuideSettings = GuideSettings(),
) -> PictureGuides | None:
    """What the encoders see of comfy pictures (B, H, W, C) for drawings of the size of `latent`; None without any.

    Pictures are squashed to that size bicubically without antialiasing, as in the released code. figure_mask: (B or 1,
    h, w) 0..1, the background picture's figures, which become white. Raises ValueError, naming what is missing.
    """
    encoders = colorizer.picture_encoders
    if encoders is None:
        raise ValueError(
            f"{colorizer.file_name} is {colorizer.family.title}, without style and background encoders. Load a v2 "
            f"checkpoint (official file names begin with 'v2'), or leave {NODE} out"
            + ("; Apply Background Plugin is the one for XL with plugin." if colorizer.family.is_xl else ".")
        )
    if style_image is None and background is None:
        return None
    warps, size = _follows_regions(conditioning), size_of(latent)
    own, theirs = reference.local_tokens, reference.background_tokens
    if background is not None:
        _check_background(warps, style_image is not None and settings.merge > 0, reference)

    def seen(patcher, image, name, mask=None, tokens=own):
        picture = images.comfy_image_to_model(image, name=name)
        if mask is not None:
            picture = without_figure(picture, check_mask(mask, "figure_mask"), settings.mask_threshold)
        if len({len(picture), len(tokens)} - {1}) > 1:
            raise ValueError(
                f"{name} has {len(picture)} pictures, the reference {len(tokens)}. Use one of each, or as many as "
                "sketches."
            )
        squashed = (squash(picture, *size) + 1) / 2  # not clamped, as released
        scaled = comfy.latent_formats.SD15().process_in(vae.encode(squashed.movedim(1, -1)).float())
        count = max(len(scaled), len(tokens))
        inputs = [scaled.expand(count, -1, -1, -1), tokens.expand(count, -1, -1)]
        return read_rows(patcher, inputs, size_embedding.ratio_scalars(tuple(picture.shape[-2:]), size))

    styles, backgrounds = [], []
    if style_image is not None:
        styles = seen(encoders.style, style_image, "style_image")
        if background is not None and reference.background_is_picture and settings.merge > 0:
            other = seen(encoders.style, background, "background", figure_mask, theirs)
            styles = merged_styles(styles, other, settings.merge)
    if background is not None and warps:
        picture_tokens = theirs if reference.background_is_picture else None
        tokens = background_context(own, picture_tokens, style_image is not None, settings.variant)
        backgrounds = seen(encoders.background, background, "background", figure_mask, tokens)
        backgrounds = [values * settings.background_factor for values in backgrounds]
    tensors = [*backgrounds, *styles]
    count = max(map(len, tensors))
    if {len(values) for values in tensors} - {1, count}:
        raise ValueError(
            f"There are {len(styles[0])} style pictures and {len(backgrounds[0])} backgrounds. Use one of each, or as "
            "many as sketches."
        )
    tensors = tuple(values.expand(count, *(-1 for _ in values.shape[1:])) for values in tensors)
    return PictureGuides(tensors, backgrounds=len(backgrounds))


def _follows_regions(conditioning: list) -> bool:
    """Whether a conditioning is one of fig2fig: figure and background with their own weights."""
    payloads = [options.get(PAYLOAD) for _, options in conditioning]
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


def with_guides(conditioning: list, guides: PictureGuides | None, empty: bool = False) -> list:
    """A conditioning whose decoder follows the guides; None changes nothing. empty: it is the negative one."""
    if guides is None:
        return conditioning
    answer = []
    for tokens, options in conditioning:
        payload = options.get(PAYLOAD) or Payload(StepSettings(), empty=empty)
        answer.append([tokens, {**options, PAYLOAD: replace(payload, banks=guides)}])
    return answer
