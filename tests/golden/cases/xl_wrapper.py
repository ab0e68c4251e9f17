"""The XL models of golden files inside ComfyUI: the U-Net alone, and everything that Apply Reference works with."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F

from ..ours import ours
from .xl_unet import UNET

HEADS = "colorize.num_head_channels"


def load_model(golden, constructor: dict):
    """The model that ComfyUI's own checkpoint loader makes of a golden file's U-Net weights.

    A file without any, which records no answer of the U-Net, gets untrained ones of the recorded sizes.
    """
    import comfy.sd

    ours("model_patches.model.registration").register()
    weights = {key: value.clone() for key, value in golden.weights.items() if key.startswith(UNET)}
    if not weights:
        config = xl_config(constructor)
        weights = {UNET + key: value for key, value in ours("colorize.unet.unet").UNet(config).state_dict().items()}
    weights |= {HEADS: torch.tensor(constructor["num_head_channels"]), "v_pred": torch.tensor([])}
    model, *_ = comfy.sd.load_state_dict_guess_config(weights, output_vae=False, output_clip=False)
    return model.model


def xl_config(constructor: dict):
    """The UNetConfig of a recorded constructor, which names levels with attention by their stride."""
    mults = tuple(constructor["channel_mult"])
    levels = tuple(level for level in range(len(mults)) if 2**level in constructor["attention_resolutions"])
    depths = tuple(depth if level in levels else 0 for level, depth in enumerate(constructor["transformer_depth"]))
    return ours("colorize.unet.config").UNetConfig(
        model_channels=constructor["model_channels"], channel_mult=mults, attention_levels=levels,
        num_res_blocks=constructor["num_res_blocks"], num_head_channels=constructor["num_head_channels"],
        context_dim=constructor["context_dim"], transformer_depth=depths, linear_projections=True,
        y_width=constructor["adm_in_channels"],
    )  # fmt: skip


class Network:
    """ComfyUI's XL U-Net of a golden file."""

    def __init__(self, golden, constructor: dict):
        self.model = load_model(golden, constructor)
        self.network = self.model.diffusion_model
        self.guide = ours("model_patches.payload").Guide

    def __call__(self, x, t, context, hints, y, guide=None):
        entries = (
            ours("model_patches.model.sketch_control").entries_of([hint.clone() for hint in hints]) if hints else None
        )
        options = {} if guide is None else {"colorize": guide}
        control = None if entries is None else {"input": entries}
        return self.network(x, t, context=context, y=y, control=control, transformer_options=options)


class Wrapper:
    """MODEL, COLORIZER and sketch encoder of a golden file of `xl_prepare_*`; encoders are given by their answers."""

    def __init__(self, golden):
        self.golden, self.inputs, self.sizes = golden, golden.inputs, golden.constructor["wrapper"]
        self.unet_sizes = self.sizes["unet_config"]["params"]
        self.network = Network(golden, self.unet_sizes)
        families, parts = ours("colorize.families"), ours("model_patches.checkpoint.colorizer")
        plugin = ours("model_patches.checkpoint.plugin").LoadedPlugin.from_state_dict(
            golden.weights, self.unet_sizes["num_head_channels"], golden.path.name
        )
        family = families.Family(
            name="xl" if plugin is None else "xl-plugin", title="golden", prediction_type="v",
            prediction_source="choice", model_channels=self.unet_sizes["model_channels"],
            context_dim=self.unet_sizes["context_dim"], num_head_channels=self.unet_sizes["num_head_channels"],
        )  # fmt: skip
        self.colorizer = parts.Colorizer(family, golden.path.name, None, self._projection(), plugin)

    def _projection(self):
        heads = self.sizes["proj_config"]["params"]["dim_head"]
        network = ours("colorize.reference.token_projection").from_state_dict(self.golden.weights, head_width=heads)
        patcher = ours("model_patches.checkpoint.managed").managed(network)
        return ours("model_patches.checkpoint.projection").LoadedProjection(network, patcher, self.golden.path.name)

    def reference(self, run: str):
        """The REFERENCE of the recorded answers of the frozen encoders, which two pictures may have."""
        found = {
            part: self.golden.outputs[f"{run}.frozen.{part}"]
            for part in ("clip_0", "wd_0", "clip_1", "wd_1")
            if f"{run}.frozen.{part}" in self.golden.outputs
        }
        background = {}
        if "clip_1" in found:
            background = dict(
                background_class_token=found["clip_1"][:, :1],
                background_tokens=found["clip_1"][:, 1:],
                background_tagger_tokens=found["wd_1"],
            )
        return ours("colorize.reference.types").Reference(
            found["clip_0"], 56, "stretch", tagger_tokens=found["wd_0"], **background
        )

    def conditions(self, run: str, **settings):
        """(positive, negative) of a run, with regions where it has a background."""
        module, reference = ours("model_patches.conditioning.conditioning"), self.reference(run)
        mask = None
        if reference.background_tokens is not None:
            settings |= dict(mode="masked vanilla")
            mask = self.mask()[:, 0]
        settings = module.ReferenceSettings(**settings)
        return module.condition(self.network.model, self.colorizer, reference, settings, mask)

    def mask(self):
        """The sketch's mask at the latent's size: nearest neighbour, as recorded (ours is bicubic)."""
        return F.interpolate(self.inputs["smask"], scale_factor=1 / 8, mode="nearest")

    @property
    def rows(self) -> int:
        return self.golden.constructor["bs"]

    def context(self, conditioning):
        """Tokens of all regions one after the other, for every picture."""
        tokens, options = conditioning[0]
        payload = options.get("colorize")
        every = (tokens, *(payload.region_tokens if payload is not None else ()))
        return torch.cat([part.expand(self.rows, -1, -1) for part in every], dim=1)

    def y(self, conditioning):
        options = conditioning[0][1]
        noise = torch.zeros(self.rows, 4, *(side // 8 for side in self.inputs["sketch"].shape[-2:]))
        return self.network.model.encode_adm(noise=noise, **options).expand(self.rows, -1)

    def sketch_control(self):
        """The control of the recorded sketch, as Apply ControlNet would set it up."""
        module, sizes = ours("model_patches.model.sketch_control"), self.sizes["control_encoder_config"]["params"]
        encoder = ours("colorize.sketch.xl_encoder").XLSketchEncoder.from_state_dict(
            self.golden.weights, "control_encoder.", head_width=sizes["dim_head"]
        )
        control = module.SketchControl(
            encoder, ours("model_patches.checkpoint.managed").managed(encoder), torch.float32
        )
        return control.set_cond_hint((self.inputs["sketch"] + 1) / 2)

    def hints(self, blank: bool = False):
        """The four maps of the sketch times their strengths, for every picture."""
        strengths = dict(zip(("high", "middle", "low", "bottom"), self.golden.constructor["control_scale"]))
        control = self.sketch_control().with_level_strengths(**strengths)
        control = control.blank() if blank else control
        latent = torch.zeros(self.rows, 4, *(side // 8 for side in self.inputs["sketch"].shape[-2:]))
        entries = control.get_control(latent, torch.tensor([1.0]), {}, 1, {})["input"]
        return [entry.expand(self.rows, -1, -1, -1) for entry in reversed(entries) if entry is not None]

    def velocity(self, positive, hints):
        """The network's answer to the recorded x and t under a conditioning."""
        x, t = self.inputs["x"], self.inputs["t"]
        tokens, options = positive[0]
        payload = options.get("colorize")
        context, guide = tokens.expand(len(x), -1, -1), None
        if payload is not None:
            rows = [values.expand(len(x), -1, -1) for values in (tokens, *payload.region_tokens)]
            step = payload.inputs(tokens, x, 0, x.device, payload.features and payload.features.node)
            masks = None if step.masks is None else step.masks.expand(len(x), -1, -1, -1)
            step = dataclasses.replace(step, tokens=rows[1:], masks=masks)
            guide, context = step.guide(rows[0], t, t, self.network.model._sizes(x))
        return self.network(x, t, context, hints, self.y(positive), guide)


def loaded_patcher(model):
    """A ModelPatcher around a model, for patches."""
    import comfy.model_patcher

    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))
