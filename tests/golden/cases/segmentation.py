"""Cases `pre_isnet`, `pre_isnet_blocks` and `pre_rmbg_wrap`: figure masks by networks, and what is around them."""

from __future__ import annotations

import torch

from ..ours import ours
from ..registry import case


def picture_of(golden) -> torch.Tensor:
    """The recorded picture (H, W, 3) uint8 -> (1, 3, H, W) in -1..1."""
    return golden.inputs["image"].movedim(-1, 0)[None].float() / 127.5 - 1


@case("pre_isnet_blocks")
def isnet_blocks(golden, check):
    isnet = ours("colorize.pictures.isnet")
    for name, sizes in golden.constructor.items():
        depth = 0 if name.endswith("F") else int(name.removeprefix("RSU"))
        block = isnet.NestedU(depth, sizes["in_ch"], sizes["mid_ch"], sizes["out_ch"]).eval()
        prefix = f"{name}."
        weights = {k.removeprefix(prefix): v for k, v in golden.weights.items() if k.startswith(prefix)}
        block.load_state_dict(weights)
        check(name, block(golden.inputs[name]))


@case("pre_isnet")
def isnet(golden, check):
    module, masks = ours("colorize.pictures.isnet"), ours("colorize.pictures.masks")
    network = module.ISNet.from_state_dict(golden.weights)
    seen = statistics_of(network)
    logits = network.logits(golden.inputs["x"])
    rows = torch.tensor([golden.config["stats_modules"].index(name) for name in seen])
    check("stats", golden.outputs["stats"].index_put((rows,), torch.stack(list(seen.values()))))  # pools: not modules
    check("y", torch.sigmoid(logits[0]))
    for number, answer in enumerate(logits, start=1):
        check(f"side{number}_logits", answer)

    picture, target, fed = picture_of(golden), golden.config["app_target"], []

    def watched(square):
        fed.append(square)
        return network(square)

    for size in (256, 1024):
        check(f"skytnt_mask_s{size}", module.character_mask(network, picture, size)[0, 0])
        check(f"proceed_nocrop_s{size}", masks.sketch_figure_mask(network, picture, *target, size))
        soft = masks.figure_mask(watched, picture, size)
        check(f"proceed_crop_s{size}", soft)
        check(f"proceed_crop_s{size}_net_input", fed.pop())
        for family, side in (("sd15", masks.DILATION), ("xl", 21)):
            check(f"proceed_crop_s{size}_dilate_{family}", masks.dilate(soft, side))


def statistics_of(network) -> dict[str, torch.Tensor]:
    """Collects mean, deviation and largest absolute value of each stage's answer while the network runs."""
    seen = {}

    def watch(name):
        def hook(module, args, answer):
            seen.setdefault(name, torch.stack([answer.mean(), answer.std(), answer.abs().max()]))

        return hook

    for name, module in network.named_children():
        if name == "conv_in" or name.startswith("stage") or name == "side1":
            module.register_forward_hook(watch(name))
    return seen


@case("pre_rmbg_wrap")
def rmbg_wrap(golden, check):
    salient_mask = ours("colorize.pictures.isnet").salient_mask

    def network(square):
        return 2 * square.mean(dim=1, keepdim=True) + 0.3 * square[:, :1]

    for size in (256, 1024):
        for suffix in ("", "_dilate"):
            for family, side, threshold in (("sd15", 11, None), ("xl", 21, 0.5)):
                dilation = side if suffix else 1
                answer = salient_mask(network, picture_of(golden), size, dilation, threshold)
                check(f"{family}_s{size}{suffix}", answer)
