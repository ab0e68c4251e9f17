"""Our own socket types and the words every node shares."""

from comfy_api.latest import io

CATEGORY = "Colorize Diffusion"

ColorizerSocket = io.Custom("COLORIZER")  # model_patches.types.Colorizer
ReferenceSocket = io.Custom("REFERENCE")  # model_patches.types.Reference
ReferenceEncoderSocket = io.Custom("REFERENCE_ENCODER")  # model_patches.reference.LoadedReferenceEncoder
TaggerSocket = io.Custom("COLORIZE_TAGGER")  # model_patches.tagger.LoadedTagger
FrameSocket = io.Custom("COLORIZE_FRAME")  # model_patches.networks.images.Frame


def provider_input():
    """The choice of what computes an .onnx file."""
    from ..model_patches.onnx_session import PROVIDERS

    return io.Combo.Input(
        "provider",
        options=list(PROVIDERS),
        default="auto",
        optional=True,
        advanced=True,
        tooltip="For .onnx files only. auto: the graphics card when onnxruntime offers it, else the CPU. "
        "cpu: always the CPU.",
    )
