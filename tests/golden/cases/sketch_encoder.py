"""Case `multi_encoder`: the sketch encoder of v1, v1.5 and v2."""

from __future__ import annotations

import torch

from ..ours import ours
from ..registry import case


@case("multi_encoder")
def torch_features(golden, check):
    module = ours("colorize.sketch.encoder")
    encoder = module.SketchEncoder.from_state_dict(golden.weights)
    for index, feature in enumerate(encoder(golden.inputs["sketch"])):
        check(f"hint.{index}", feature)


@case("multi_encoder", side="comfy")
def comfy_features(golden, check):
    """Through the CONTROL_NET: what it hands to the U-Net at each input block."""
    module = ours("model_patches.model.sketch_control")
    hint_blocks = ours("colorize.unet.config").HINT_BLOCKS
    sketch = golden.inputs["sketch"]
    control = module.SketchControl.from_state_dict(golden.weights)
    control.set_cond_hint((sketch + 1) / 2)
    latent = torch.zeros(len(sketch), 4, sketch.shape[-2] // 8, sketch.shape[-1] // 8)
    entries = control.get_control(latent, torch.ones(len(sketch)), {}, 1, {})["input"][::-1]
    for index, block in enumerate(hint_blocks):
        check(f"hint.{index}", entries[block])
