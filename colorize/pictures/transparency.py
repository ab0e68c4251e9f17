"""Whether a mask that is said to be a drawing's transparency was painted for something else.

ComfyUI's MaskEditor saves what a person paints as transparency, so the MASK of Load Image is "1 = transparent" in one
workflow and "1 = figure" in the next. The pixels tell them apart: a drawing program leaves one flat tone below
transparent places, the editor leaves the drawing itself. Pure torch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from . import images

SIDE = 768  # pixels; the longer side that is looked at
THIN = 13  # pixels at SIDE: what a square of this size does not fit into is a line
CONTRAST = 0.25  # from which difference to its surroundings' tone (0..1) a pixel may belong to a line
HIDDEN = 0.99  # from which transparency on a place cannot be seen
PAINTED = 0.1  # from which share of hidden lines on the mask was not meant as transparency


def _thin_ink(tone: torch.Tensor, where: torch.Tensor) -> float:
    """Number of pixels of lines in the places `where` of one picture; both (1, 1, H, W)."""
    if not bool(where.any()):
        return 0.0
    ink = ((tone - tone[where].median()).abs() > CONTRAST).float() * where
    half = THIN // 2
    core = 1 - F.max_pool2d(1 - ink, THIN, stride=1, padding=half)
    return (ink - F.max_pool2d(core, THIN, stride=1, padding=half)).clamp_min(0).sum().item()


def hidden_line_share(colours: torch.Tensor, transparent: torch.Tensor) -> float:
    """Largest share, 0 to 1, of a drawing's lines that its transparency hides.

    colours: (B, 3, H, W) in 0..1; transparent: (1 or B, H, W) in 0..1, 1 = transparent, of the same size.
    """
    largest = 0.0
    for index in range(len(colours)):
        tone = images.reduced(images.luminance(colours[index : index + 1]), SIDE)
        mask = transparent[index % len(transparent)][None, None].float()
        hidden = F.interpolate(mask, tone.shape[-2:], mode="area") > HIDDEN
        below, seen = _thin_ink(tone, hidden), _thin_ink(tone, ~hidden)
        if below:
            largest = max(largest, below / (below + seen))
    return largest


def check_drawing(image: torch.Tensor, mask: torch.Tensor | None, polarity: str = "auto", name: str = "sketch") -> None:
    """Raise ValueError where a drawing's transparency was painted in an editor, or is missing.

    image: comfy picture (B, H, W, C) in 0..1; mask: its transparency (1 or B, H, W), 1 = transparent, or None.
    A mask of another size is somebody else's complaint.
    """
    if mask is None or not bool(mask.any()):
        if polarity == "auto" and image.shape[-1] == 3 and image.numel() and not bool(image.any()):
            raise ValueError(
                f"{name} is black everywhere. A drawing with transparency looks like that without it: connect MASK of "
                "the same Load Image node to transparency. For an empty drawing on black choose polarity light_on_dark."
            )
        return
    if mask.ndim != 3 or mask.shape[-2:] != image.shape[1:3] or len(mask) not in (1, len(image)):
        return
    share = hidden_line_share(images.rgb_and_alpha(image)[0], mask)
    if share >= PAINTED:
        raise ValueError(
            f"The transparency of {name} would erase {share:.0%} of its lines: the mask looks painted (MaskEditor "
            "saves paint as transparency). If you painted the figure, disconnect it from transparency and connect it "
            "to figure_mask of Apply Reference. To leave those parts out, erase them in the drawing and load it again. "
            "MaskEditor's Clear takes the paint away."
        )
