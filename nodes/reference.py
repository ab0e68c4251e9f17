"""Load the reference encoder and encode colour references."""

import folder_paths
from comfy_api.latest import io

from ..model_patches.networks import images
from .sockets import CATEGORY, ReferenceEncoderSocket, ReferenceSocket


class ColorizeLoadReferenceEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ColorizeLoadReferenceEncoder",
            display_name="Load Reference Encoder",
            category=CATEGORY,
            description="Loads the image encoder that reads colour references. Official v1 models: OpenCLIP ViT-H/14; "
            "bundled small model: colorize_small_vision.",
            search_aliases=["clip vision", "open_clip", "ViT-H", "reference encoder", "image encoder"],
            inputs=[
                io.Combo.Input(
                    "encoder_name",
                    options=folder_paths.get_filename_list("clip_vision"),
                    tooltip="File in models/clip_vision, in open_clip or Hugging Face layout, with the projection.",
                ),
            ],
            outputs=[
                ReferenceEncoderSocket.Output(
                    display_name="encoder", tooltip="The loaded encoder. Goes to Encode Reference."
                ),
            ],
        )

    @classmethod
    def execute(cls, encoder_name):
        from ..model_patches.reference import load_encoder

        return io.NodeOutput(load_encoder(folder_paths.get_full_path_or_raise("clip_vision", encoder_name)))


class ColorizeEncodeReference(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ColorizeEncodeReference",
            display_name="Encode Reference",
            category=CATEGORY,
            description="Turns a colour picture into a reference. Encode once and use it for as many sketches as "
            "you like; a batch of pictures gives one reference per sketch.",
            search_aliases=["reference image", "color reference", "style reference", "ip adapter", "encode image"],
            inputs=[
                ReferenceEncoderSocket.Input("encoder", tooltip="From Load Reference Encoder."),
                io.Image.Input("image", tooltip="The colour reference, or a batch of them. Any size."),
                io.Combo.Input(
                    "fit",
                    options=["stretch", "pad", "crop"],
                    default="stretch",
                    tooltip="How the picture becomes the encoder's square. stretch squashes it, as the models were "
                    "trained; pad adds white margins and takes less of its layout along; crop reads the middle only.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="MASK of the same Load Image node, for pictures with transparency (1 = transparent). "
                    "Transparent parts become white.",
                ),
            ],
            outputs=[
                ReferenceSocket.Output(
                    display_name="reference", tooltip="The encoded reference. Goes to Apply Reference."
                ),
            ],
        )

    @classmethod
    def execute(cls, encoder, image, fit="stretch", mask=None):
        picture = images.comfy_image_to_model(image, mask, "reference")
        return io.NodeOutput(encoder.encode(picture, fit))
