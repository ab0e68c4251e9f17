"""Putting golden weights into ComfyUI: a MODEL through the stock loader, and controls with given sketch features.

Import this inside the functions of the comfy side only: it needs ComfyUI on sys.path.
"""

from __future__ import annotations

import comfy.sd
import torch

from .ours import ours

PREFIX = "model.diffusion_model."


def load_model(weights: dict[str, torch.Tensor], num_head_channels: int, prediction_type: str = "v"):
    """The MODEL (a ModelPatcher) that ComfyUI's own checkpoint loader makes of U-Net weights with bare names.

    The checkpoint also gets a small sketch encoder and the marker tensors of our files, by which they are recognised.
    """
    ours("model_patches.model.registration").register()
    checkpoint = {PREFIX + key: tensor.clone() for key, tensor in weights.items()}
    width = weights["input_blocks.0.0.weight"].shape[0]
    encoder = ours("colorize.sketch.encoder").SketchEncoder(widths=(width,) * 4, model_channels=width)
    checkpoint.update({f"control_encoder.{key}": tensor for key, tensor in encoder.state_dict().items()})
    checkpoint["colorize.num_head_channels"] = torch.tensor(num_head_channels)
    checkpoint["v_pred" if prediction_type == "v" else "eps_pred"] = torch.tensor([])
    model, *_ = comfy.sd.load_state_dict_guess_config(checkpoint, output_vae=False, output_clip=False)
    return model


class FixedFeatures:
    """Stands in for the sketch encoder: whatever the sketch, the same feature maps."""

    def __init__(self, features: list[torch.Tensor]):
        self.maps = features
        self.calls: list[torch.Tensor] = []

    def __call__(self, sketch: torch.Tensor) -> list[torch.Tensor]:
        self.calls.append(sketch)
        return [feature.clone() for feature in self.maps]


def control(features: list[torch.Tensor], sketch: torch.Tensor | None = None, strength: float = 1.0):
    """A CONTROL_NET of ours that answers the five `features`, as Apply ControlNet would set it up.

    sketch: (B, 3, H, W) in 0..1; a blank one of the features' size when not given.
    """
    module = ours("model_patches.model.sketch_control")
    if sketch is None:
        height, width = (size * 8 for size in features[0].shape[-2:])
        sketch = torch.zeros(features[0].shape[0], 3, height, width)
    hint = module.SketchControl(FixedFeatures(features), None, torch.float32)
    hint.get_models = list  # no weights to load
    return hint.set_cond_hint(sketch, strength)
