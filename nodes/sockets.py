"""Our own socket types and the words every node shares."""

from comfy_api.v0_0_2 import io

CATEGORY = "Colorize Diffusion"

ColorizerSocket = io.Custom("COLORIZER")  # model_patches.checkpoint.colorizer.Colorizer
ReferenceSocket = io.Custom("REFERENCE")  # colorize.reference.types.Reference
ReferenceEncoderSocket = io.Custom("REFERENCE_ENCODER")  # model_patches.reference.encoder.LoadedReferenceEncoder
TaggerSocket = io.Custom("COLORIZE_TAGGER")  # model_patches.reference.tagger.LoadedTagger
FrameSocket = io.Custom("COLORIZE_FRAME")  # colorize.pictures.images.Frame
RegionsSocket = io.Custom("REGIONS")  # colorize.pictures.regions.Regions
FlatsSocket = io.Custom("COLORIZE_FLATS")  # colorize.pictures.flat_batch.FlatBatch
PaletteSocket = io.Custom("PALETTE")  # colorize.pictures.palette.Palette


def share_input(name, default, tooltip, step=0.01, advanced=True):
    """An optional number from 0 to 1: a threshold, a share of the sampling."""
    return io.Float.Input(
        name, default=default, min=0.0, max=1.0, step=step, optional=True, advanced=advanced or None, tooltip=tooltip
    )


def transparency_input(name, picture, display_name="transparency"):
    """The MASK of a Load Image node where it says what is transparent. What says where a figure is is no such input."""
    return io.Mask.Input(
        name,
        display_name=display_name,
        optional=True,
        tooltip=f"Only for a {picture} with transparency: MASK of the same Load Image node, 1 = transparent. A figure "
        "that you painted in MaskEditor belongs into figure_mask instead.",
    )


def conditioning_outputs():
    """What a node gives that stands between Apply Reference and the sampler."""
    tooltip = "Goes to Apply ControlNet or to the sampler."
    return [io.Conditioning.Output(display_name=name, tooltip=tooltip) for name in ("positive", "negative")]


def provider_input():
    """The choice of what computes an .onnx file."""
    from ..model_patches.checkpoint.onnx_session import PROVIDERS

    return io.Combo.Input(
        "provider",
        options=list(PROVIDERS),
        default="auto",
        optional=True,
        advanced=True,
        tooltip="For .onnx files only. auto: the graphics card when onnxruntime offers it, else the CPU. "
        "cpu: always the CPU.",
    )
