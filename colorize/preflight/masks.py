"""Findings on the figure masks, and on batches that do not fit together."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ..counts import ADVICE, mismatch
from ..modes import MODES
from ..pictures import images, masks
from ..pictures.figure_masks import SAME_PROPORTIONS, check_mask
from ..pictures.line_measures import MEASURED_SIDE
from ..pictures.ranges import model_to_unit
from .finding import Finding, Inputs


def mask_findings(inputs: Inputs) -> list[Finding]:
    """Findings on the figure masks: what they cover, and whether they agree with pictures and with each other."""
    masked = MODES[inputs.mode].splits
    given = inputs.figure_mask, inputs.reference_figure_mask
    regions = getattr(inputs.encoded, "regions", ())
    found = []
    if masked and given[0] is None and not regions and inputs.sketch is not None:
        fix = "Connect Figure from Drawing (no download) or Segment Character to figure_mask of Apply Reference."
        found.append(Finding("problem", "masks", f"The mode {inputs.mode} needs the figure of the drawing.", fix))
    if not masked and any(mask is not None for mask in given):
        fix = "Set mode to fig2fig or bg2fig (v1.5), or to masked vanilla."
        found.append(
            Finding("note", "masks", "Figure masks are connected, but the mode vanilla does not use them.", fix)
        )
    pairs = (
        ("figure_mask", given[0], inputs.sketch, inputs.mask_threshold),
        ("reference_figure_mask", given[1], inputs.reference, inputs.reference_mask_threshold),
    )
    coverages = []
    for name, mask, picture, threshold in pairs:
        if mask is None:
            continue
        try:
            mask = check_mask(mask, name)
        except ValueError as error:
            found.append(Finding("problem", "masks", str(error)))
            continue
        found += _mask_findings(name, mask, picture, threshold, "problem" if masked else "warning")
        coverages.append(masks.binary(mask, threshold).mean().item())
    if len(coverages) == 2 and min(coverages) > 0:
        found += _agreement(*coverages)
    found += _lines_in_mask(inputs)
    return found


def _mask_findings(
    name: str, mask: torch.Tensor, picture: torch.Tensor | None, threshold: float, level: str
) -> list[Finding]:
    figure = masks.binary(mask, threshold)
    share = figure.mean().item()
    found = []
    if share == 0:
        peak = mask.max().item()
        text = f"{name} is empty: nothing is above the threshold {threshold:g} (largest value {peak:.2f})."
        fix = "1 must be the figure. Load Image gives an empty mask for opaque pictures: use Load Image (as Mask)."
        found.append(Finding(level, "masks", text, fix if peak == 0 else "Lower mask_threshold."))
    elif share == 1:
        text = f"{name} covers everything: no background is left."
        found.append(Finding(level, "masks", text, "Check the mask; Invert Mask turns one round."))
    elif masks.looks_inverted(figure):
        text = f"{name} marks the border of the picture and leaves its middle out: it looks inverted."
        found.append(Finding("warning", "masks", text, "Put Invert Mask before it if the figure is in the middle."))
    elif share < 0.01:
        text = f"{name} covers only {share:.1%} of the picture."
        found.append(Finding("warning", "masks", text, "Lower mask_threshold, or draw the mask again."))
    else:
        found.append(Finding("fine", "masks", f"{name} covers {share:.0%} of the picture."))
    size = tuple(getattr(picture, "shape", ())[1:3])
    if len(size) == 2 and share > 0:
        height, width = size
        if not math.isclose(mask.shape[-1] * height, mask.shape[-2] * width, rel_tol=SAME_PROPORTIONS):
            text = f"{name} is {mask.shape[-1]}x{mask.shape[-2]}, its picture {width}x{height}: it will be stretched."
            found.append(Finding("warning", "masks", text, "Make the mask from the same picture."))
    return found


def _agreement(drawing: float, reference: float) -> list[Finding]:
    ratio = max(drawing, reference) / min(drawing, reference)
    text = f"The figure fills {drawing:.0%} of the drawing and {reference:.0%} of the reference."
    if ratio > 4:
        return [Finding("warning", "masks", text, "Crop the larger picture nearer to its figure, or check the masks.")]
    return [Finding("fine", "masks", text)]


def _lines_in_mask(inputs: Inputs) -> list[Finding]:
    """Whether the drawing's lines lie where its mask says that the figure is."""
    if inputs.sketch is None or inputs.figure_mask is None:
        return []
    try:
        mask = check_mask(inputs.figure_mask)
        sketch = images.comfy_image_to_sketch(inputs.sketch, inputs.sketch_mask)
    except ValueError:
        return []
    if len(mask) not in (1, len(sketch)):
        return []
    tone = images.reduced(model_to_unit(images.luminance(sketch)), MEASURED_SIDE).clamp(0, 1)
    figure = F.interpolate(mask[:, None], tone.shape[-2:], mode="nearest") > inputs.mask_threshold
    total, share = tone.sum(), figure.float().mean().item()
    if total == 0 or share in (0.0, 1.0):
        return []
    inside = ((tone * figure).sum() / total).item()
    if inside < 0.25 and share > 0.05:
        text = f"Only {inside:.0%} of the drawing's lines lie in figure_mask, which covers {share:.0%} of it."
        return [Finding("warning", "masks", text, "Check that the mask belongs to this drawing and is not inverted.")]
    return []


def count_findings(inputs: Inputs) -> list[Finding]:
    """Whether batches fit together: one of each, or as many as sketches."""
    given = {
        "sketches": inputs.sketch,
        "references": inputs.reference if inputs.reference is not None else getattr(inputs.encoded, "tokens", None),
        "figure masks of the drawing": inputs.figure_mask,
        "figure masks of the reference": inputs.reference_figure_mask,
    }
    counts = {name: len(value) for name, value in given.items() if value is not None and value.ndim > 2}
    text = mismatch(counts)
    return [Finding("problem", "sketch", text, ADVICE)] if text else []
