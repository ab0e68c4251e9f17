"""Cases `xl_prepare_sdxl`, `xl_prepare_xlv2`: what the released wrappers hand to the U-Net, and one call of it.

The answers of the frozen encoders are part of the record, so that only what is computed from them is compared here.
"""

from __future__ import annotations

import torch

from ..ours import ours
from ..registry import case
from .xl_parts import xl_sketch_encoder
from .xl_unet import plugin_split, xl_unet

FROZEN = "answers of the frozen encoders, which are given to the case"


class Wrapper:
    """The parts of a recorded wrapper, and what it makes of one situation."""

    def __init__(self, golden, check):
        self.golden, self.check = golden, check
        self.config = golden.constructor["wrapper"]
        heads = self.config["proj_config"]["params"]["dim_head"]
        self.projection = ours("colorize.reference.token_projection").from_state_dict(golden.weights, head_width=heads)
        self.encoder = xl_sketch_encoder(golden.weights, self.config["control_encoder_config"]["params"])
        self.batch = golden.constructor["bs"]
        self.width = self.config["scalar_embedder_config"]["params"]["embed_dim"]

    def tokens(self, run: str, number: int) -> torch.Tensor:
        """Reference tokens (1, M, D) of the run's picture `number`."""
        frozen = self.golden.outputs
        return self.projection(frozen[f"{run}.frozen.clip_{number}"], frozen[f"{run}.frozen.wd_{number}"])

    def hints(self, sketch: torch.Tensor) -> list[torch.Tensor]:
        scales = self.golden.constructor["control_scale"]
        hints = [hint * scale for hint, scale in zip(self.encoder(sketch), scales)]
        return [hint.expand(self.batch, -1, -1, -1) for hint in hints]

    def y(self) -> torch.Tensor:
        module, size = ours("colorize.unet.size_embedding"), self.golden.inputs["sketch"].shape[-2:]
        return module.embed(module.picture_scalars(*size, batch=self.batch), self.width)

    def mask(self) -> torch.Tensor:
        """(B, 1, h, w): the figure mask of the sketch, as the released inference reduces it."""
        smask = self.golden.inputs["smask"]
        size = [side // 8 for side in smask.shape[-2:]]
        return torch.nn.functional.interpolate(smask, size, mode="nearest").expand(self.batch, -1, -1, -1)

    def check_run(self, run: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Compare the three conditions of a run; the context and the hints of the first."""
        outputs = self.golden.outputs
        sets = [self.tokens(run, number) for number in range(2) if f"{run}.frozen.clip_{number}" in outputs]
        context = torch.cat(sets, dim=1).expand(self.batch, -1, -1)
        if run == "noreference":
            context = torch.zeros_like(context)
        sketch = self.golden.inputs["sketch"]
        given, blank = self.hints(sketch), self.hints(torch.full_like(sketch, -1))
        conditions = {
            "cond": (context, given),
            "uc_ref": (torch.zeros_like(context), given),
            "uc_sketch": (context, blank),
        }
        for name, (tokens, hints) in conditions.items():
            self.check(f"{run}.{name}.context", tokens)
            self.check(f"{run}.{name}.y", self.y())
            self.check(f"{run}.{name}.mask", self.mask())
            for level, hint in enumerate(hints):
                self.check(f"{run}.{name}.control_{level}", hint)
        return context, given


@case("xl_prepare_sdxl")
def prepare_sdxl(golden, check):
    wrapper = Wrapper(golden, check)
    for run in ("plain", "noreference", "bg", "bg_image", "inpaint"):
        wrapper.check_run(run)
    check.skip("*.frozen.*", FROZEN)
    check.skip("inpaint.cond.inpaint_bg", "the latent of a background picture goes through ComfyUI's noise mask")


@case("xl_prepare_xlv2")
def prepare_xlv2(golden, check):
    wrapper, inputs, config = Wrapper(golden, check), golden.inputs, golden.constructor["wrapper"]
    module, sizes = ours("colorize.background.reference_net"), ours("colorize.unet.size_embedding")
    heads = config["unet_config"]["params"]["num_head_channels"]
    plugin = module.ReferenceNet.from_state_dict(golden.weights, num_head_channels=heads)
    network = xl_unet(golden.weights, config["unet_config"]["params"])
    masks = {"bg": "rmask", "bg_image": "rmask_bg"}
    sources = {"bg": "reference", "bg_image": "background"}
    for run in ("plain", "bg", "bg_image"):
        context, hints = wrapper.check_run(run)
        if run == "plain":
            check(f"{run}.v", network(inputs["x"], inputs["t"], context, hints, y=wrapper.y()))
            continue
        latent, target = golden.outputs[f"{run}.frozen.latent_0"], inputs["sketch"].shape[-2:]
        given = module.plugin_input(latent, inputs["smask"], inputs[masks[run]])
        y = sizes.embed(sizes.crop_scalars(inputs[sources[run]].shape[-2:], target), wrapper.width)
        check(f"{run}.plugin_input", given)
        check(f"{run}.plugin_y", y)
        split = plugin_split(context, wrapper.mask())
        answer = network(inputs["x"], inputs["t"], None, hints, split=split, y=wrapper.y(), banks=plugin(given, y))
        check(f"{run}.v", answer)
        for name in ("cond", "uc_ref", "uc_sketch"):
            check(f"{run}.{name}.threshold", torch.tensor(split.options.threshold))
    check.skip("*.frozen.*", FROZEN)
