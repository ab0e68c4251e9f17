"""Cases `split_attention_*` and `unet_v1_reference_scale`: regions and strengths inside the U-Net, on both sides."""

from __future__ import annotations

import torch

from ..ours import ours
from ..registry import case
from .unet import unet_config


class TorchNetwork:
    """Our pure-torch U-Net with a golden file's weights."""

    def __init__(self, golden, weights=None):
        module = ours("colorize.unet.unet")
        weights = golden.weights if weights is None else weights
        sizes = ours("colorize.unet.config")
        ranks = sizes.unet_config_from_state_dict(weights, "", golden.constructor["num_head_channels"]).region_ranks
        config = unet_config(golden.constructor)
        self.network = module.UNet(type(config)(**{**vars(config), "region_ranks": ranks})).eval()
        self.network.load_state_dict(weights)

    def __call__(self, x, timesteps, context, control, split=None, strengths=None):
        return self.network(x, timesteps, context, control, split=split, strengths=strengths)

    def uniform(self, strength):
        """The same strength for every cross-attention."""
        return [strength] * len(self.network.attention_places)

    def layer(self, path, x, split, size, strength):
        layer = self.network.get_submodule(path)
        return layer.forward_split(x, split, size, strength)


class ComfyNetwork:
    """ComfyUI's U-Net with our cross-attention, loaded by the stock loader."""

    def __init__(self, golden, weights=None):
        from .. import comfy_model

        weights = golden.weights if weights is None else weights
        loaded = comfy_model.load_model(weights, golden.constructor["num_head_channels"])
        self.network = loaded.model.diffusion_model

    def __call__(self, x, timesteps, context, control, split=None, strengths=None):
        from .. import comfy_model

        hints = comfy_model.control(control).get_control(x, timesteps, {}, 1, {}) if control else None
        options = {"colorize": self._guide(split, strengths)}
        context = split.tokens[0] if split is not None else context
        return self.network(x, timesteps, context=context, control=hints, transformer_options=options)

    def uniform(self, strength):
        """The same strength for every cross-attention."""
        return [strength] * len(self.network.attention_places)

    def layer(self, path, x, split, size, strength):
        layer = self.network.get_submodule(path)
        options = {"colorize": self._guide(split, self.uniform(strength)), "activations_shape": [len(x), 0, *size]}
        return layer(x, context=split.tokens[0], transformer_options=options)

    @staticmethod
    def _guide(split, strengths):
        strengths = tuple(strengths) if strengths else None
        return ours("model_patches.payload").Guide(strengths=strengths, split=split, off=False)


def split_of(settings: dict, context: torch.Tensor, mask: torch.Tensor, ties_to_figure: bool = False):
    """A Split from the recorded settings; `context` holds figure and background tokens one after the other."""
    module = ours("colorize.unet.split_attention")
    options = module.SplitOptions(
        kinds=("fg" if settings.get("fg_lora") else None, "bg" if settings.get("bg_lora") else None),
        strengths=(settings.get("fg_scale", 1.0), settings.get("bg_scale", 1.0)),
        threshold=settings["mask_threshold"],
        merge=settings.get("merge_scale", 0.0),
        ties_to_figure=ties_to_figure,
    )
    return module.Split(context.chunk(2, dim=1), mask, options)


def run_unets(golden, check, network):
    x, control = golden.inputs["x"], golden.listed("control")
    timesteps = torch.tensor(golden.config["timesteps"], dtype=torch.float32)
    mask = golden.inputs["mask"]
    for run, settings in golden.runs.items():
        if not run.startswith("unet.") or "mask_threshold" not in settings:
            continue
        context = golden.inputs.get("context")
        if "context" in settings:
            e = golden.inputs["e"]
            context = torch.cat([e, e], dim=1) if "repeated" in settings["context"] else golden.inputs["context2"]
        scale = settings.get("reference_scale", 1.0)
        strengths = network.uniform(scale) if scale != 1.0 else None
        check(run, network(x, timesteps, None, control, split=split_of(settings, context, mask), strengths=strengths))


def fig2fig(golden, check, network):
    run_unets(golden, check, network)
    mask, context = golden.inputs["mask"], golden.inputs["context"]
    for run, settings in golden.runs.items():
        if run.startswith("layer"):
            size = tuple(round(side * settings["scale_factor"]) for side in mask.shape[-2:])
            split, x = split_of(settings, context, mask), golden.inputs[f"{run.partition('.')[0]}.x"]
            check(run, network.layer(settings["layer"], x, split, size, settings["scale"]))


def bg2fig(golden, check, network, plain):
    """network: with region weights; plain: the same without (a v1 file)."""
    run_unets(golden, check, network)
    x, control, mask = golden.inputs["x"], golden.listed("control"), golden.inputs["mask"]
    timesteps = torch.tensor(golden.config["timesteps"], dtype=torch.float32)
    check("unet.vanilla_no_mask", network(x, timesteps, golden.inputs["e"], control))
    settings = golden.runs["unet_v1.masked_vanilla"]
    split = split_of(settings, golden.inputs["context2"], mask, ties_to_figure=True)
    strengths = plain.uniform(settings["reference_scale"])
    check("unet_v1.masked_vanilla", plain(x, timesteps, None, control, split=split, strengths=strengths))

    tie, context = golden.inputs["tie.x"], golden.inputs["tie.context"]
    size = tuple(mask.shape[-2:])
    level, half = torch.full((1, 1, *size), 0.5), {"mask_threshold": 0.5}  # recorded with both region weights off
    layer = golden.runs["tie.*"]["layer"]
    check("tie.lora_layer", network.layer(layer, tie, split_of(half, context, level), size, 1.0))
    split = split_of(half, context, level, ties_to_figure=True)
    check("tie.plain_layer", plain.layer(layer, tie, split, size, 1.0))


def without_regions(golden) -> dict[str, torch.Tensor]:
    return {key: value for key, value in golden.weights.items() if ".lora_" not in key}


def reference_scale(golden, check, network):
    x, context, control = golden.inputs["x"], golden.inputs["context"], golden.listed("control")
    timesteps = torch.tensor(golden.config["timesteps"], dtype=torch.float32)
    for run, settings in golden.runs.items():
        strengths = next(value for key, value in settings.items() if key.startswith("effective_scale"))
        check(run, network(x, timesteps, context, control, strengths=strengths))


@case("split_attention_fig2fig")
def torch_fig2fig(golden, check):
    fig2fig(golden, check, TorchNetwork(golden))


@case("split_attention_fig2fig", side="comfy")
def comfy_fig2fig(golden, check):
    fig2fig(golden, check, ComfyNetwork(golden))


@case("split_attention_bg2fig")
def torch_bg2fig(golden, check):
    bg2fig(golden, check, TorchNetwork(golden), TorchNetwork(golden, without_regions(golden)))


@case("split_attention_bg2fig", side="comfy")
def comfy_bg2fig(golden, check):
    bg2fig(golden, check, ComfyNetwork(golden), ComfyNetwork(golden, without_regions(golden)))


@case("unet_v1_reference_scale")
def torch_reference_scale(golden, check):
    reference_scale(golden, check, TorchNetwork(golden))


@case("unet_v1_reference_scale", side="comfy")
def comfy_reference_scale(golden, check):
    reference_scale(golden, check, ComfyNetwork(golden))
