"""The background plugin of XL: a second network reads a background picture once, the picture's U-Net reads its banks.

The reference net (background/reference_net.py) answers one bank of tokens for every transformer block of the U-Net's
decoder, whose self-attention reads it in every step (xl_unet.BankAttention). Banks ride in the conditioning like
everything else of a run. The checkpoint's background weights were trained with the plugin and for the whole picture, so
they are switched on with it. Source: CVPR 2026 paper (low-level injection) and the released code.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import comfy.latent_formats
import torch

from ...colorize.modes import with_plugin
from ...colorize.pictures import images
from ...colorize.pictures.figure_masks import check_mask, without_figure
from ...colorize.pictures.images import PIXELS_PER_LATENT
from ...colorize.pictures.masks import squash
from ...colorize.unet.split_attention import SplitOptions
from ...colorize.unet.unet import BANK_OPTIONS
from ..checkpoint.colorizer import Colorizer
from ..checkpoint.plugin import NODE
from .conditioning import PAYLOAD, Payload, PlanCache


@dataclass(eq=False)
class Banks:
    """What the plugin offers to self-attention. Compared by identity, so that equal conditions run in one batch."""

    tensors: tuple[torch.Tensor, ...] = field(repr=False)
    """(b, N_i, C_i) per transformer block of the decoder, in order; b is 1 or the number of pictures."""
    plans: PlanCache = field(default_factory=PlanCache, repr=False)
    """Who reads the bank, made in a run's first step."""
    node: ClassVar[str] = NODE
    """The node that makes them."""
    title: ClassVar[str] = "backgrounds of the plugin"
    """For messages."""

    def __post_init__(self):
        self._copies: weakref.WeakValueDictionary[str, Banks] = weakref.WeakValueDictionary()

    @property
    def count(self) -> int:
        """Number of backgrounds."""
        return len(self.tensors[0])

    def check_count(self, pictures: int) -> None:
        """Raise ValueError unless there is one background, or one per picture."""
        if self.count not in (1, pictures):
            raise ValueError(
                f"There are {self.count} {self.title} for {pictures} pictures. Use one, or as many as "
                "sketches (Repeat Image Batch and Image From Batch change the number)."
            )

    def check_model(self, model) -> None:
        """Raise ValueError unless the ColorizeModel reads what this node makes."""
        if model.banks_node != self.node:
            raise ValueError(
                f"The conditioning comes from {self.node}, but the sampled model is of another family. Connect model "
                "and colorizer of the same Load ColorizeDiffusion Checkpoint."
            )

    def on(self, device: torch.device) -> Banks:
        """The banks on a device: one copy for all conditions of a run, gone when the run's conditions are."""
        if self.tensors[0].device == device:
            return self
        copy = self._copies.get(str(device))
        if copy is None:
            tensors = tuple(bank.to(device) for bank in self.tensors)
            copy = self._copies[str(device)] = replace(self, tensors=tensors, plans=PlanCache())
        return copy

    to = on  # ComfyUI asks conditions to move when it spreads a run over several devices

    def read(
        self,
        rows: int,
        masks: torch.Tensor | None,  # (rows, F, h, w) figure masks at the size of the latent
        sizes: Sequence[tuple[int, int]],  # of the feature maps with attention
        options: SplitOptions,  # of the cross-attention
    ) -> dict[str, Any]:
        """Banks of 1 row or `rows` rows and the split by which they are read in one step: fields of a Guide."""
        tensors = self.rows(rows)
        if masks is None:
            return dict(banks=tensors)
        figures, options = masks.amax(dim=1, keepdim=True), replace(BANK_OPTIONS, threshold=options.threshold)
        return dict(banks=tensors, bank_split=self.plans.split(tensors[:1] * 2, figures, options, sizes))

    def rows(self, rows: int) -> tuple[torch.Tensor, ...]:
        """The tensors with 1 row or `rows` rows: a batch holds all pictures once per condition."""
        if self.count == 1:
            return self.tensors
        return tuple(bank.repeat(rows // self.count, *(1 for _ in bank.shape[1:])) for bank in self.tensors)


def read_background(
    colorizer: Colorizer,
    vae,
    conditioning: list,
    image: torch.Tensor,
    latent: dict,
    figure_mask: torch.Tensor | None = None,
    mask_threshold: float = 0.5,
) -> Banks:
    """Banks of background pictures for the drawings of a conditioning, for pictures of the size of `latent`.

    image: comfy pictures (B, H, W, C); figure_mask: (B or 1, h, w) 0..1, their figures, which are painted white where
    it is not below mask_threshold. Pictures are squashed to the size with antialiasing (the released code has none) and
    encoded to the mean of the VAE's answer (released: a sample). Raises ValueError, naming what is missing.
    """
    if colorizer.plugin is None:
        raise ValueError(
            f"{colorizer.file_name} is {colorizer.family.title}, without background plugin. Load an XL checkpoint with "
            "plugin (official file names begin with 'xlv2'), or leave Apply Background Plugin out."
        )
    figure = figure_of(conditioning)
    if figure is None:
        raise ValueError(
            "The plugin needs to know where the figure is in the drawing. Set mode of Apply Reference to masked "
            "vanilla and connect figure_mask there (an empty mask for drawings without a figure)."
        )
    height, width = size_of(latent)
    picture = images.comfy_image_to_model(image, name="image")
    mask = torch.zeros(1, *picture.shape[-2:])
    if figure_mask is not None:
        mask = check_mask(figure_mask, "figure_mask")
        picture = without_figure(picture, mask, mask_threshold)
    counts = {"backgrounds": len(picture), "figure masks of the drawing": len(figure)}
    if len(set(counts.values()) - {1}) > 1:
        found = " and ".join(f"{count} {name}" for name, count in counts.items())
        raise ValueError(f"There are {found}. Use one of each, or as many as sketches.")
    squashed = images.model_image_to_comfy(images.resize(picture, height, width))
    scaled = comfy.latent_formats.SDXL().process_in(vae.encode(squashed).float())
    masks, source = (squash(figure, height, width), mask[:, None]), tuple(picture.shape[-2:])
    return Banks(colorizer.plugin.read(scaled, *masks, source))


def size_of(latent: dict) -> tuple[int, int]:
    """Height and width in pixels of the pictures of a LATENT. ValueError for latents of other models."""
    samples = latent["samples"]
    if samples.is_nested or samples.ndim != 4:
        raise ValueError(
            "latent is not of the form (count, 4, height, width). Connect the latent of Prepare Sketch or of Empty "
            "Latent Image."
        )
    return tuple(PIXELS_PER_LATENT * side for side in samples.shape[-2:])


def figure_of(conditioning: list) -> torch.Tensor | None:
    """(B, 1, H, W): where any figure of a conditioning of Apply Reference is in the drawing; None in vanilla mode."""
    masks = [mask for _, options in conditioning for mask in _payload(options).masks]
    if not masks:
        return None
    size = tuple(max(mask.shape[dimension] for mask in masks) for dimension in (-2, -1))
    rows = max(map(len, masks))
    planes = [
        torch.nn.functional.interpolate(mask[:, None].float(), size, mode="bilinear", align_corners=False)
        for mask in masks
    ]
    return torch.stack([plane.expand(rows, -1, -1, -1) for plane in planes]).amax(dim=0)


def with_banks(conditioning: list, banks: Banks) -> list:
    """A conditioning that offers the banks, with the background weights on for every region."""
    answer = []
    for tokens, options in conditioning:
        payload = _payload(options)
        settings = payload.settings
        if settings.split is not None:
            settings = replace(settings, split=with_plugin(settings.split), plans=PlanCache())
        answer.append([tokens, {**options, PAYLOAD: replace(payload, settings=settings, banks=banks)}])
    return answer


def _payload(options: dict) -> Payload:
    payload = options.get(PAYLOAD)
    if payload is None:
        raise ValueError(
            "The conditioning is not one of Apply Reference with figure masks. Set mode of Apply Reference to masked "
            "vanilla, connect figure_mask there, and connect its positive and negative here."
        )
    return payload
