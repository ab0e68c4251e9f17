"""Our own socket types and the words every node shares."""

from comfy_api.latest import io

CATEGORY = "Colorize Diffusion"

ColorizerSocket = io.Custom("COLORIZER")  # model_patches.types.Colorizer
ReferenceSocket = io.Custom("REFERENCE")  # model_patches.types.Reference
ReferenceEncoderSocket = io.Custom("REFERENCE_ENCODER")  # model_patches.reference.LoadedReferenceEncoder
FrameSocket = io.Custom("COLORIZE_FRAME")  # model_patches.networks.images.Frame
