"""What is wrong with a graph's inputs before a run: findings with their fixes, and a report.

Measures and words only, pure torch; nothing is sampled. Pictures are ComfyUI's (B, H, W, C) in 0..1, masks (B, H, W).
The limits are rules of thumb, after the released applications' advice where there is any.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..advice import encoder_advice, mode_advice
from ..modes import MASK_THRESHOLD, MODES, REFERENCE_THRESHOLD, Given, Weights, refusal
from ..pictures import images, masks
from ..pictures.figure_masks import SAME_PROPORTIONS, check_mask
from ..pictures.line_measures import FLAT, MEASURED_SIDE, Lines, measure_lines

LEVELS = ("problem", "warning", "note", "fine")
"""problem: the run fails or its result is useless. warning: the result suffers. note: good to know. fine: as it should
be."""

STEP = 64  # Prepare Sketch's
SMALL_MODEL_WIDTH = 256  # U-Nets narrower than this are small ones, trained at 256 pixels
TRAINED_SIDE = {"official": (512, 768), "xl": (1024, 1536), "small": (256, 384)}  # best and largest side in pixels
ENCODER_SIDE = 224  # pixels, what the reference encoder of the official models reads

UNSURE = 0.1  # share of light pixels this close to a half: paper and lines cannot be told apart
GREY_PAPER = 0.12  # darkness of the paper from which clean_paper is worth it
FAINT = 0.5  # darkness of the darkest lines
THIN, THICK = 0.7, 8.0  # pixels of line width at the sampled size
SHADES = 0.35  # share of middle tones that line art does not have
COLOURED, COLOURLESS = 0.15, 0.03  # share of coloured pixels in a sketch; mean saturation of a reference
DARK = 0.15  # mean brightness of a reference below which it is a night picture
LONG, VERY_LONG = 1.5, 2.0  # long side over short side of a reference that is squashed to a square: note, warning
MARGINS = 0.3  # share of the canvas around a padded drawing
SOLID = 0.25  # share of the drawing in solid black areas


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: str
    """One of LEVELS."""
    subject: str
    """"sketch", "reference", "masks" or "model": which panel of the preview it belongs to."""
    text: str
    """What was found."""
    fix: str = ""
    """What to do about it; empty for what is fine."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """Everything Preflight looks at. What is None is not examined."""

    sketch: torch.Tensor | None = None
    """Drawings as the artist made them, before Prepare Sketch."""
    sketch_mask: torch.Tensor | None = None
    """Their transparency, 1 = transparent."""
    figure_mask: torch.Tensor | None = None
    """Where the figure is in the drawings."""
    reference: torch.Tensor | None = None
    """Reference pictures, before Encode Reference."""
    reference_mask: torch.Tensor | None = None
    """Their transparency."""
    reference_figure_mask: torch.Tensor | None = None
    """Where the figure is in the references."""
    width: int = 512
    """Of the sampled picture, pixels."""
    height: int = 512
    mode: str = "vanilla"
    """Mode of Apply Reference."""
    mask_threshold: float = MASK_THRESHOLD
    """Of Apply Reference."""
    reference_mask_threshold: float = REFERENCE_THRESHOLD
    """Of Encode Reference."""
    model: object | None = None
    """The model inside a MODEL."""
    is_ours: bool = True
    """Whether that is one of our models."""
    colorizer: object | None = None
    """The reference side of the checkpoint: `file_name`, `family` and `background_encoder`."""
    encoded: object | None = None
    """types.Reference: the output of Encode Reference."""
    core_remark: str = ""
    """What is to be said about the ComfyUI this runs in; empty for one that was tested."""


def examine(inputs: Inputs) -> list[Finding]:
    """All findings, the worst first."""
    found = [
        *sketch_findings(inputs),
        *reference_findings(inputs),
        *mask_findings(inputs),
        *count_findings(inputs),
        *model_findings(inputs),
    ]
    if inputs.core_remark:
        found.append(Finding("warning", "model", inputs.core_remark, "Update ComfyUI, then load the graph again."))
    if not found:
        found = [Finding("note", "sketch", "Nothing is connected.", "Connect a sketch, a reference, masks or a model.")]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def report(findings: list[Finding]) -> str:
    """The findings as text: a line that counts them, then one paragraph each, numbered as in the preview."""
    counts = {level: sum(finding.level == level for finding in findings) for level in LEVELS}
    words = [f"{counts[level]} {level}{'' if counts[level] == 1 else 's'}" for level in LEVELS[:3] if counts[level]]
    lines = [f"Preflight: {', '.join(words) or 'all is well'}."]
    for number, finding in enumerate(findings, start=1):
        fix = f" Fix: {finding.fix}" if finding.fix else ""
        lines.append(f"{number}. {finding.level.upper()} ({finding.subject}): {finding.text}{fix}")
    return "\n".join(lines)


# -- the sketch --------------------------------------------------------------------------------------------------------


POLARITY_WORDS = {
    "dark_on_light": "dark lines on light paper",
    "light_on_dark": "light lines on dark paper",
    "transparent": "a transparent line layer",
}


def sketch_findings(inputs: Inputs) -> list[Finding]:
    """Findings on the drawings and on the size they are sampled at."""
    found = _size_findings(inputs)
    if inputs.sketch is None:
        return found
    try:
        measured = measure_lines(inputs.sketch, inputs.sketch_mask)
    except ValueError as error:
        return [*found, Finding("problem", "sketch", str(error))]
    found += _broken_values(inputs.sketch, "sketch", "The sketch")
    height, width = inputs.sketch.shape[1:3]
    scale = _scale_to_canvas(height, width, inputs)
    for number, lines in enumerate(measured, start=1):
        name = "The sketch" if len(measured) == 1 else f"Sketch {number}"
        found += _drawing_findings(name, lines, scale, inputs.sketch_mask is not None)
    if scale is not None:
        found += _placement_findings(height, width, scale, inputs)
    return found


def _drawing_findings(name: str, lines: Lines, scale: float | None, has_mask: bool) -> list[Finding]:
    if lines.spread < FLAT:
        connected = "" if has_mask else " Without MASK a transparent drawing looks like this."
        return [
            Finding(
                "problem",
                "sketch",
                f"{name} is one flat tone: there are no lines.{connected}",
                "Look at the file. For transparent PNGs connect the MASK output of Load Image to Prepare Sketch too.",
            )
        ]
    found = [Finding("fine", "sketch", f"{name} is read as {POLARITY_WORDS[lines.polarity]}.")]
    if lines.polarity != "transparent" and abs(lines.light - 0.5) < UNSURE:
        found.append(
            Finding(
                "warning",
                "sketch",
                f"{name} is {lines.light:.0%} light: paper and lines cannot be told apart safely.",
                "Choose polarity by hand in Prepare Sketch and look at its sketch output.",
            )
        )
    if lines.coloured > COLOURED:
        found.append(
            Finding(
                "warning",
                "sketch",
                f"{name} is coloured ({lines.coloured:.0%} of it): this looks like a picture, not a line drawing.",
                "Put Extract Sketch before Prepare Sketch, or check that sketch and reference are not swapped.",
            )
        )
    elif lines.middle > SHADES:
        found.append(
            Finding(
                "warning",
                "sketch",
                f"{name} has grey shades in {lines.middle:.0%} of it; the models know lines only.",
                "Put Extract Sketch before Prepare Sketch; for photographed paper switch clean_paper on instead.",
            )
        )
    elif lines.paper > GREY_PAPER:
        found.append(
            Finding(
                "warning",
                "sketch",
                f"The paper of {name.lower()} is {lines.paper:.0%} dark instead of blank.",
                "Switch clean_paper on in Prepare Sketch.",
            )
        )
    if lines.peak < FAINT:
        found.append(
            Finding(
                "warning",
                "sketch",
                f"The darkest lines of {name.lower()} have {lines.peak:.0%} of full strength.",
                f"Set line_contrast of Prepare Sketch to about {min(4.0, 1 / max(lines.peak, 0.25)):.1f}.",
            )
        )
    if lines.solid > SOLID:
        found.append(
            Finding(
                "note",
                "sketch",
                f"{lines.solid:.0%} of {name.lower()} is solid black, which the model reads as line everywhere.",
                "Leave such areas white when the reference is to colour them.",
            )
        )
    if scale is not None and lines.width > 0:
        found += _width_findings(name, lines.width, scale)
    return found


def _width_findings(name: str, width: float, scale: float) -> list[Finding]:
    sampled = width * scale
    text = f"The lines of {name.lower()} are about {width:.1f} pixels wide, {sampled:.1f} at the sampled size."
    if sampled < THIN:
        contrast = min(4.0, 1 / max(sampled, 0.25))
        fix = f"Sample larger, or set line_contrast of Prepare Sketch to about {contrast:.1f}: thin lines fade."
        return [Finding("warning", "sketch", text, fix)]
    if sampled > THICK:
        return [
            Finding(
                "warning", "sketch", text, "Sample smaller, or thin the lines: the models were trained on a few pixels."
            )
        ]
    return [Finding("fine", "sketch", text)]


def _scale_to_canvas(height: int, width: int, inputs: Inputs) -> float | None:
    """Pixels of the sampled picture per pixel of the drawing, with fit pad; None for an impossible size."""
    if min(inputs.width, inputs.height, width, height) < 1:
        return None
    return min(inputs.width / width, inputs.height / height)


def _placement_findings(height: int, width: int, scale: float, inputs: Inputs) -> list[Finding]:
    found = []
    margin = 1 - min(1.0, scale * scale * width * height / (inputs.width * inputs.height))
    if margin > MARGINS:
        better = "x".join(str(side) for side in fitting_size(height, width, inputs.width * inputs.height))
        found.append(
            Finding(
                "note",
                "sketch",
                f"A drawing of {width}x{height} fills {1 - margin:.0%} of {inputs.width}x{inputs.height}; the rest is "
                "blank margin.",
                f"Sample at {better}, which has its proportions.",
            )
        )
    if scale > 2:
        found.append(
            Finding(
                "note",
                "sketch",
                f"The drawing has only {width}x{height} pixels and is enlarged {scale:.1f} times.",
                "Use a larger scan, or enlarge it with an upscale model first.",
            )
        )
    return found


def fitting_size(height: int, width: int, area: int) -> tuple[int, int]:
    """(width, height) in steps of 64 with about the proportions of a drawing and about `area` pixels."""
    ratio = min(8.0, max(1 / 8, width / height))
    return tuple(max(STEP, round(side / STEP) * STEP) for side in (math.sqrt(area * ratio), math.sqrt(area / ratio)))


def _size_findings(inputs: Inputs) -> list[Finding]:
    if inputs.sketch is None and inputs.colorizer is None:
        return []
    size = f"{inputs.width}x{inputs.height}"
    if inputs.width % STEP or inputs.height % STEP:
        nearest = "x".join(str(max(STEP, round(side / STEP) * STEP)) for side in (inputs.width, inputs.height))
        fix = f"Use {nearest}."
        return [Finding("problem", "sketch", f"The size {size} is not divisible by {STEP}.", fix)]
    if inputs.colorizer is None:
        return []
    family = inputs.colorizer.family
    small = family.model_channels < SMALL_MODEL_WIDTH
    best, largest = TRAINED_SIDE["small" if small else "xl" if family.is_xl else "official"]
    area = inputs.width * inputs.height
    if area > largest**2 * 1.1:
        fix = f"Sample at about {best}x{best} and enlarge the result, or sample its latent again at the large size."
        text = f"{size} is far above the size of this model ({best}, at most {largest}): figures and colours repeat."
        return [Finding("warning", "sketch", text, fix)]
    if area < best**2 * 0.4:
        text = f"{size} is far below the size this model was trained at ({best}x{best})."
        return [Finding("warning", "sketch", text, f"Sample at about {best}x{best}.")]
    return []


# -- the reference -----------------------------------------------------------------------------------------------------


def reference_findings(inputs: Inputs) -> list[Finding]:
    """Findings on the reference pictures."""
    if inputs.reference is None:
        return []
    try:
        colours, alpha = images.rgb_and_alpha(inputs.reference, inputs.reference_mask, "reference")
    except ValueError as error:
        return [Finding("problem", "reference", str(error))]
    found = _broken_values(inputs.reference, "reference", "The reference")
    height, width = colours.shape[-2:]
    if alpha is not None and (alpha < 0.5).float().mean() > 0.01:
        share = (alpha < 0.5).float().mean().item()
        text = f"{share:.0%} of the reference is transparent and becomes white."
        found.append(Finding("note", "reference", text, "Lay it on a background first when white is not meant."))
    squashed = getattr(inputs.encoded, "fit", "stretch") == "stretch"
    if squashed and max(height, width) > LONG * min(height, width):
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
    for number, picture in enumerate(images.reduced(images.on_white(colours, alpha), MEASURED_SIDE), start=1):
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


def _broken_values(image: torch.Tensor, subject: str, name: str) -> list[Finding]:
    broken = int((~torch.isfinite(image)).sum())
    if not broken:
        return []
    text = f"{name} has {broken} of {image.numel()} values that are NaN or infinite; they count as black."
    return [Finding("problem", subject, text, "Look at the node that makes the picture.")]


# -- masks -------------------------------------------------------------------------------------------------------------


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


def _mask_findings(name: str, mask: torch.Tensor, picture, threshold: float, level: str) -> list[Finding]:
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
    tone = images.reduced((images.luminance(sketch) + 1) / 2, MEASURED_SIDE).clamp(0, 1)
    figure = F.interpolate(mask[:, None], tone.shape[-2:], mode="nearest") > inputs.mask_threshold
    total, share = tone.sum(), figure.float().mean().item()
    if total == 0 or share in (0.0, 1.0):
        return []
    inside = ((tone * figure).sum() / total).item()
    if inside < 0.25 and share > 0.05:
        text = f"Only {inside:.0%} of the drawing's lines lie in figure_mask, which covers {share:.0%} of it."
        return [Finding("warning", "masks", text, "Check that the mask belongs to this drawing and is not inverted.")]
    return []


# -- counts and model --------------------------------------------------------------------------------------------------


def count_findings(inputs: Inputs) -> list[Finding]:
    """Whether batches fit together: one of each, or as many as sketches."""
    given = {
        "sketches": inputs.sketch,
        "references": inputs.reference if inputs.reference is not None else getattr(inputs.encoded, "tokens", None),
        "figure masks of the drawing": inputs.figure_mask,
        "figure masks of the reference": inputs.reference_figure_mask,
    }
    counts = {name: len(value) for name, value in given.items() if getattr(value, "ndim", 0) > 2}
    if len(set(counts.values()) - {1}) < 2:
        return []
    text = f"There are {', '.join(f'{count} {name}' for name, count in counts.items())}."
    return [Finding("problem", "sketch", text, "Use one of each, or as many as sketches (Repeat Image Batch).")]


def model_findings(inputs: Inputs) -> list[Finding]:
    """Findings on checkpoint, encoder and mode: whether they belong together."""
    found = []
    colorizer, encoded = inputs.colorizer, inputs.encoded
    if inputs.model is not None and not inputs.is_ours:
        text = f"The model is {type(inputs.model).__name__}, not a ColorizeDiffusion model."
        fix = "Connect the model output of Load ColorizeDiffusion Checkpoint."
        found.append(Finding("problem", "model", text, fix))
    if colorizer is None:
        return found
    family = colorizer.family
    text = f"{colorizer.file_name} is {family.title}, {family.prediction_type} prediction ({family.prediction_source})."
    if family.prediction_source in ("default", "file name"):
        fix = "Leave it if the colours are right; if they are grey or burnt, set prediction_type of the loader by hand."
        found.append(Finding("note", "model", text, fix))
    else:
        found.append(Finding("fine", "model", text))
    if inputs.model is not None and inputs.is_ours and inputs.model.context_dim != family.context_dim:
        text = f"The model reads tokens of width {inputs.model.context_dim}, the colorizer {family.context_dim}."
        fix = "Connect model and colorizer of the same Load ColorizeDiffusion Checkpoint."
        found.append(Finding("problem", "model", text, fix))
    if encoded is not None and encoded.width != family.reference_dim:
        text = f"The encoder answers tokens of width {encoded.width}; {family.title} here reads {family.reference_dim}."
        fix = f"Choose another encoder in Load Reference Encoder: {encoder_advice(family.reference_dim)}."
        found.append(Finding("problem", "model", text, fix))
    elif encoded is not None:
        found.append(Finding("fine", "model", f"The reference encoder fits: tokens of width {encoded.width}."))
    if encoded is not None and family.is_xl:
        found += _tagger_findings(encoded, family)
    return found + _mode_findings(inputs)


def _tagger_findings(encoded, family) -> list[Finding]:
    features = encoded.tagger_tokens
    if features is None:
        fix = "Connect Load Tagger (WD v1.4 Swin V2, .safetensors) to tagger of Encode Reference."
        return [Finding("problem", "model", f"{family.title} also reads a tagger's features; there are none.", fix)]
    if features.shape[2] != family.tagger_dim:
        text = f"The tagger answers features of width {features.shape[2]}; this model reads {family.tagger_dim}."
        return [Finding("problem", "model", text, "Choose WD v1.4 Swin V2 in Load Tagger.")]
    return [Finding("fine", "model", f"The tagger fits: features of width {features.shape[2]}.")]


def _mode_findings(inputs: Inputs) -> list[Finding]:
    colorizer, encoded = inputs.colorizer, inputs.encoded
    weights = Weights.of(colorizer.family, colorizer.file_name, colorizer.background_encoder is not None)
    known = encoded is None or encoded.background_tokens is not None
    given = Given(figure=True, background=known, added=len(getattr(encoded, "regions", ())))
    reason = refusal(inputs.mode, weights, given)
    return [] if reason is None else [Finding("problem", "model", reason.text, mode_advice(reason, weights))]
