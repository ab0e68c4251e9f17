"""Add figures with references of their own to a reference."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from comfy_api.v0_0_2 import io

from ..colorize.counts import check_counts
from ..colorize.pictures import images
from ..colorize.pictures.figure_masks import check_mask, on_canvas
from ..colorize.reference.types import Reference, Region
from .sockets import CATEGORY, FrameSocket, Node, ReferenceSocket


def add_region(
    reference: Reference,
    region_reference: Reference,
    mask: torch.Tensor,
    strength: float = 1.0,
    frame: images.Frame | None = None,
) -> Reference:
    """REFERENCE with one more figure on top: region_reference where mask (B, H, W), 0..1, is 1."""
    if region_reference.width != reference.width:
        raise ValueError(
            f"The region's reference has tokens of width {region_reference.width}, the reference it is added to "
            f"{reference.width}. Encode both with the same Load Reference Encoder."
        )
    if region_reference.regions:
        raise ValueError(
            f"region_reference has {len(region_reference.regions)} added figures of its own. Connect a plain Encode "
            "Reference there, and chain the figures one after the other: the output of one Add Region is the "
            "reference of the next."
        )
    if region_reference.tagger_tokens is not None and reference.second_tower != region_reference.second_tower:
        raise ValueError(
            f"reference was encoded with a {reference.second_tower}, region_reference with a "
            f"{region_reference.second_tower} beside the encoder. Give both Encode Reference nodes the same networks."
        )
    mask = on_canvas(check_mask(mask, "mask"), frame, "mask")
    counts = {"references": reference.count, "references of the region": region_reference.count, "masks": len(mask)}
    check_counts(counts)
    if not bool(mask.any()):
        logging.warning(
            "The mask of an added region is empty: this figure will not appear. 1 must be the figure; Load Image gives "
            "an empty mask for pictures without transparency."
        )
    region = Region(
        tokens=region_reference.local_tokens,
        mask=mask.cpu(),
        strength=strength,
        class_token=region_reference.tokens[:, :1],
        tagger_tokens=region_reference.tagger_tokens,
    )
    return replace(reference, regions=(*reference.regions, region))


class ColorizeAddRegion(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeAddRegion",
            display_name="Add Region",
            category=CATEGORY + "/masks",
            description="For drawings with several figures: gives one of them a reference of its own. Chain one node "
            "per figure; later ones lie on top. Apply Reference then needs any mode but vanilla.",
            search_aliases=["several characters", "regional prompt", "mask region", "cast", "two characters", "couple"],
            inputs=[
                ReferenceSocket.Input(
                    "reference",
                    tooltip="The reference so far: of Encode Reference or of another Add Region. Its background is "
                    "the picture's background.",
                ),
                ReferenceSocket.Input(
                    "region_reference",
                    tooltip="What this figure looks like, from Encode Reference with the same encoder. Only its figure "
                    "is used: no background, no regions, no strengths per level.",
                ),
                io.Mask.Input(
                    "mask",
                    tooltip="Where this figure is in the drawing: 1 = figure. Any size; it is stretched over the "
                    "picture, or over the drawing when frame is connected. An empty mask is allowed.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="How strongly this figure's reference acts, 0 to 2, times strength and "
                    "figure_strength of Apply Reference. 1 as trained; lower it when shapes of the reference appear.",
                ),
                FrameSocket.Input(
                    "frame",
                    optional=True,
                    tooltip="From Prepare Sketch: the mask was drawn for the original drawing and is placed like it. "
                    "Leave it open when the mask has the proportions of the sampled picture.",
                ),
            ],
            outputs=[
                ReferenceSocket.Output(
                    display_name="reference",
                    tooltip="The reference with this figure on top. Goes to Apply Reference or to the next Add Region.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        reference: Reference,
        region_reference: Reference,
        mask: torch.Tensor,
        strength: float = 1.0,
        frame: images.Frame | None = None,
    ) -> io.NodeOutput:
        return io.NodeOutput(add_region(reference, region_reference, mask, strength, frame))
