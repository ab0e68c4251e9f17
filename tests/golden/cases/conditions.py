"""Case `conditions_v1`: what reaches the U-Net for a reference and a sketch, with recorded encoder outputs."""

from __future__ import annotations

import torch

from ..ours import ours
from ..registry import case


def check_background(golden, check, join):
    """The released switch "BG enhance" of v1. join(tokens) -> figure and background tokens one after the other."""
    inputs, threshold = golden.inputs, golden.config["args"]["mask_threshold_ref"]
    module = ours("colorize.pictures.figure_masks")
    check("masked_reference_image", module.without_figure(inputs["reference"], inputs["rmask"][:, 0], threshold))
    for run, tokens in (("bg_enhance", "emb_masked_reference_full"), ("bg_enhance_background", "emb_background_full")):
        context, mask = join(inputs[tokens][:, 1:])
        check(f"{run}.context", for_batch(context, golden))
        check(f"{run}.mask", for_batch(mask, golden))


def for_batch(tensor: torch.Tensor, golden) -> torch.Tensor:
    """One row per picture: the released code repeats, ComfyUI broadcasts while sampling."""
    return tensor.repeat(golden.config["args"].get("bs", 1), *(1 for _ in tensor.shape[1:]))


class FixedTokens:
    """Stands in for the reference encoder: the recorded tokens, class token included."""

    def __init__(self, tokens: torch.Tensor):
        self.tokens = tokens

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        return self.tokens


@case("conditions_v1")
def torch_conditions(golden, check):
    colorizer = ours("trainer.models.colorizer").V1Colorizer(
        unet=None,
        sketch_encoder=None,
        autoencoder=None,
        reference_encoder=FixedTokens(golden.inputs["emb_reference_full"]),
        prediction_type="v",
    )
    tokens = colorizer.tokens(golden.inputs["reference"])
    check("plain.context", for_batch(tokens, golden))
    check("no_reference.context", for_batch(torch.zeros_like(tokens), golden))
    check_background(golden, check, lambda e_b: (torch.cat([tokens, e_b], dim=1), golden.inputs["smask"]))
    check.skip("plain.*control*", "the strength of the sketch belongs to ComfyUI's Apply ControlNet: comfy side")
    check.skip("control_encoder_input", "the trainer encodes no blank sketch")


@case("conditions_v1", side="comfy")
def comfy_conditions(golden, check):
    """Apply Reference and the sketch control, as a graph sets them up."""
    from .. import comfy_model

    tokens = golden.inputs["emb_reference_full"]
    model = tiny_model(tokens.shape[-1])
    types, parts = ours("colorize.reference.types"), ours("model_patches.checkpoint.colorizer")
    family = ours("colorize.families").Family("v1", "", "v", "choice", 32, tokens.shape[-1], 32)
    colorizer = parts.Colorizer(family=family, file_name="golden")
    reference = types.Reference(tokens=tokens, image_size=1, fit="stretch")
    apply = ours("nodes.apply").ColorizeApplyReference.execute
    _, positive, negative = apply(model, colorizer, reference).args
    check("plain.context", for_batch(positive[0][0], golden))
    check("no_reference.context", for_batch(negative[0][0], golden))

    sketch = (golden.inputs["sketch"] + 1) / 2
    strength = golden.config["args"]["control_scale"]
    latent = torch.zeros(len(sketch), 4, sketch.shape[-2] // 8, sketch.shape[-1] // 8)
    seen = []
    for prefix, row, hint in (("control", 0, sketch), ("uncond_sketch_control", 1, torch.zeros_like(sketch))):
        features = [feature[row : row + 1] for feature in golden.listed("control_features")]
        control = comfy_model.control(features, hint, strength)
        entries = control.get_control(latent, torch.ones(1), {}, 1, {})["input"][::-1]
        for index, block in enumerate(ours("colorize.unet.config").HINT_BLOCKS):
            check(f"plain.{prefix}.{index}", for_batch(entries[block], golden))
        seen += control.encoder.calls
    check("control_encoder_input", torch.cat(seen))

    def masked_vanilla(background):
        split = types.Reference(tokens=tokens, image_size=1, fit="stretch", background_tokens=background)
        mask = golden.inputs["smask"][:, 0]
        _, positive, _ = apply(model, colorizer, split, mode="masked vanilla", figure_mask=mask, merge=0.3).args
        payload = positive[0][1]["colorize"]
        return torch.cat([positive[0][0], *payload.region_tokens], dim=1), payload.masks[0][:, None]

    check_background(golden, check, masked_vanilla)


def tiny_model(context_dim: int):
    """A MODEL of the v1 layout with random weights that reads tokens of the given width."""
    from .. import comfy_model

    module = ours("colorize.unet.unet")
    config = ours("colorize.unet.config").UNetConfig(
        model_channels=32, channel_mult=(1, 1, 1, 1), num_head_channels=32, context_dim=context_dim
    )
    return comfy_model.load_model(module.UNet(config).state_dict(), config.num_head_channels)
