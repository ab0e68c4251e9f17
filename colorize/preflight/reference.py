"""Findings on the reference pictures."""

from __future__ import annotations

import torch

from ..pictures import images
from ..pictures.line_measures import FLAT, MEASURED_SIDE
from ..pictures.ranges import unit_to_model
from ..reference.fitting import fitted
from .finding import BLANK, COLOURLESS, DARK, ENCODER_SIDE, LONG, VERY_LONG, Finding, Inputs, broken_values


def reference_findings(inputs: Inputs) -> list[Finding]:
    """Findings on the reference pictures."""
    if inputs.reference is None:
        return []
    try:
        colours, alpha = images.rgb_and_alpha(inputs.reference, inputs.reference_mask, "reference")
    except ValueError as error:
        return [Finding("problem", "reference", str(error))]
    found = broken_values(inputs.reference, "reference", "The reference")
    fit = getattr(inputs.encoded, "fit", "stretch")
    whole = images.on_white(colours, alpha)
    (height, width), trimmed = whole.shape[-2:], fitted(unit_to_model(whole), "trim").shape[-2:]
    if alpha is not None and (alpha < 0.5).float().mean() > 0.01:
        share = (alpha < 0.5).float().mean().item()
        text = f"{share:.0%} of the reference is transparent and becomes white."
        found.append(Finding("note", "reference", text, "Lay it on a background first when white is not meant."))
    if fit == "trim":
        height, width = trimmed
    elif trimmed[0] * trimmed[1] < BLANK * height * width:
        found.append(
            Finding(
                "note",
                "reference",
                f"{1 - trimmed[0] * trimmed[1] / (height * width):.0%} of the reference is blank margin, which the "
                "encoder reads like everything else.",
                "Set fit of Encode Reference to trim.",
            )
        )
    if fit in ("stretch", "trim") and max(height, width) > LONG * min(height, width):
        level = "warning" if max(height, width) > VERY_LONG * min(height, width) else "note"
        found.append(
            Finding(
                level,
                "reference",
                f"The reference is {width}x{height}; the encoder squashes it to a square.",
                "Set fit of Encode Reference to pad (all of it, with white margins) or crop (the middle).",
            )
        )
    side = getattr(inputs.encoded, "image_size", ENCODER_SIDE)
    if min(height, width) < side:
        found.append(
            Finding(
                "note",
                "reference",
                f"The reference is {width}x{height}, smaller than the {side} pixels the encoder reads.",
                "Use a larger picture if there is one.",
            )
        )
    for number, picture in enumerate(images.reduced(whole, MEASURED_SIDE), start=1):
        found += _colour_findings("The reference" if len(colours) == 1 else f"Reference {number}", picture.clamp(0, 1))
    return found


def _colour_findings(name: str, picture: torch.Tensor) -> list[Finding]:
    saturation = (picture.amax(dim=0) - picture.amin(dim=0)).mean().item()
    white = (picture.amin(dim=0) > 0.9).float().mean().item()
    if (picture.amax() - picture.amin()) < FLAT:
        return [Finding("problem", "reference", f"{name} is one flat colour.", "Choose a picture with the colours.")]
    if saturation < COLOURLESS and white > 0.7:
        return [
            Finding(
                "problem",
                "reference",
                f"{name} looks like a line drawing: {white:.0%} white and no colours.",
                "Swap the pictures of sketch and reference, or choose a coloured reference.",
            )
        ]
    light = images.luminance(picture[None]).mean().item()
    if light < DARK:
        text = f"{name} is dark (mean brightness {light:.0%}): the result will be dark, and colours will be confused."
        return [Finding("warning", "reference", text, "Brighten it first, or choose a picture in daylight.")]
    if saturation < COLOURLESS:
        text = f"{name} has hardly any colour (mean saturation {saturation:.0%}); the result will be grey too."
        return [Finding("warning", "reference", text, "Choose a coloured reference unless grey is meant.")]
    return [Finding("fine", "reference", f"{name} has colours (mean saturation {saturation:.0%}).")]
