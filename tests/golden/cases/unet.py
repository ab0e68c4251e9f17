"""Case `unet_v1`: the whole U-Net with sketch features, fractional time steps, zero tokens, and probes inside."""

from __future__ import annotations

import torch

from ..ours import ours
from ..registry import case

KEPT = {
    "in_channels",
    "out_channels",
    "model_channels",
    "num_res_blocks",
    "num_head_channels",
    "context_dim",
}
"""Constructor arguments of the recorded network that UNetConfig calls by the same name."""


def unet_config(constructor: dict):
    """The UNetConfig of a recorded constructor (which counts attention by the stride of the level)."""
    module = ours("colorize.unet.config")
    mults = tuple(constructor["channel_mult"])
    levels = tuple(level for level in range(len(mults)) if 2**level in constructor["attention_resolutions"])
    same = {key: value for key, value in constructor.items() if key in KEPT}
    return module.UNetConfig(channel_mult=mults, attention_levels=levels, **same)


def torch_unet(golden):
    """Our pure-torch U-Net with the weights of a golden case."""
    module = ours("colorize.unet.unet")
    network = module.UNet(unet_config(golden.constructor))
    network.load_state_dict(golden.weights)
    return network.eval()


def check_unet(golden, check, network, call):
    """Compare every run and probe. `call(x, timesteps, context, control)` runs the network `network`."""
    x, context, control = golden.inputs["x"], golden.inputs["context"], golden.listed("control")
    for run, settings in golden.runs.items():
        if run.startswith("probe"):
            continue
        tokens = torch.zeros_like(context) if run == "zero_context" else context
        timesteps = torch.tensor(settings["timesteps"], dtype=torch.float32)
        check(run, call(x, timesteps, tokens, control))

    probes = {name: name.removeprefix("probe.") for name in check.names("probe.*")}
    if probes:
        seen = {}
        hooks = [probe(network, path, name, seen) for name, path in probes.items()]
        settings = golden.runs.get("probe.*") or next(iter(golden.runs.values()))
        call(x, torch.tensor(settings["timesteps"], dtype=torch.float32), context, control)
        for hook in hooks:
            hook.remove()
        for name, output in seen.items():
            check(name, output)


def probe(network, path: str, name: str, seen: dict):
    """A hook that writes the output of the block at `path` to seen[name], before a sketch feature is added to it."""
    block = network.get_submodule(path)
    if isinstance(block, torch.nn.Sequential):  # ComfyUI calls the layers of a block one by one
        block = block[-1]

    def keep(module, inputs, output):
        seen[name] = (output[0] if isinstance(output, tuple) else output).clone()  # our block also gives what it keeps

    return block.register_forward_hook(keep)


@case("unet_v1")
def torch_side(golden, check):
    network = torch_unet(golden)
    check_unet(golden, check, network, network)


@case("unet_v1", side="comfy")
def comfy_side(golden, check):
    from .. import comfy_model

    network = comfy_model.load_model(golden.weights, golden.constructor["num_head_channels"]).model.diffusion_model

    def call(x, timesteps, context, control):
        hints = comfy_model.control(control).get_control(x, timesteps, {}, 1, {}) if control else None
        return network(x, timesteps, context=context, control=hints, transformer_options={})

    check_unet(golden, check, network, call)
