"""What to do about it, in the words of the graph: advice that nodes and Preflight give with one voice."""

from __future__ import annotations

from .modes import Refusal, Weights

ENCODERS = {
    1024: ("OpenCLIP ViT-H/14 (laion2b_s32b_b79k)", "official v1, v1.5 and v2 models"),
    1280: ("OpenCLIP ViT-bigG/14 (laion2b_s39b_b160k)", "official XL models"),
}
"""Width of the tokens -> the encoder that answers them, and for which models."""


def encoder_advice(width: int) -> str:
    """Which encoder answers tokens of this width."""
    if width in ENCODERS:
        return "{}, for {}".format(*ENCODERS[width])
    return f"the one this model was trained with, projecting to {width} values (bundled model: colorize_small_vision)"


def mode_advice(refusal: Refusal, weights: Weights) -> str:
    """What to change in the graph when a mode does not run."""
    if refusal.lacks == "split":
        return "Set mode to fig2fig, bg2fig or masked vanilla."
    if refusal.lacks == "region weights":
        plugin = " (with Apply Background Plugin behind it, for XL with plugin)" if weights.xl else ""
        return f"Load a v1.5 checkpoint, or choose masked vanilla, which needs none{plugin}."
    if refusal.lacks == "bg2fig":
        return (
            "Choose masked vanilla (the reference for figure and background), or fig2fig with a background in Encode "
            "Reference."
        )
    if refusal.lacks == "figure":
        return (
            "Connect figure_mask, a MASK of the drawing, 1 = figure: of Figure from Drawing (no download), of "
            "Segment Character, or painted in MaskEditor; or choose vanilla, which needs none."
        )
    if refusal.lacks == "background":
        other = "masked vanilla" if weights.warps else "bg2fig"
        return (
            "In Encode Reference connect figure_mask (a MASK of the reference, 1 = figure) or a background picture, or "
            f"choose {other}, which needs neither."
        )
    return "Load a complete v1.5 checkpoint, or choose bg2fig."
