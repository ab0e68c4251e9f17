"""One evaluation of a model for a finished picture, and what a place of it looked at inside.

The picture's latent is noised to a step of a run and goes through the U-Net once per conditioning. The blocks are
listened to by hooks that live for that one call; nothing of the model is changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock

from ...colorize.unet.place_views import PARTS, View, lowest_blocks, place_of, view_of


def views(
    model: Any, conditioning: list, latent: dict, point: tuple[float, float], progress: float, seed: int
) -> list[View]:
    """The views of a point in the encoder and in the decoder, for every picture of a LATENT.

    point: shares 0..1 of width and height. progress: 0 is the start of a run, where all is noise, 1 its end.
    Raises ValueError for numbers out of range and for a model that is none of ours.
    """
    for name, value in (("x", point[0]), ("y", point[1]), ("progress", progress)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; it lies between 0 and 1.")
    places = getattr(model.get_model_object("diffusion_model"), "attention_places", None)
    if places is None:
        raise ValueError(
            "The model is no ColorizeDiffusion model: there is nothing to show. Connect the model of Apply Reference."
        )
    samples = latent["samples"]
    numbers = lowest_blocks(places)
    level = places[numbers[0]].level
    height, width = (-(-side // 2**level) for side in samples.shape[-2:])
    size = (height, width)
    place = place_of(point, size)
    found: list[View] = []

    def once(
        wrapped: Any, x: torch.Tensor, sigmas: torch.Tensor, extra_args: dict[str, Any] | None = None, **_: Any
    ) -> torch.Tensor:
        network = model.model.diffusion_model
        blocks = [module for module in network.modules() if isinstance(module, BasicTransformerBlock)]
        with contextlib.ExitStack() as stack:
            kept = [stack.enter_context(_listening(blocks[number])) for number in numbers]
            wrapped(x, sigmas[:1].expand(len(x)), **(extra_args or {}))
            for part, number, heard in zip(PARTS, numbers, kept, strict=True):
                attention = blocks[number].attn1
                found.append(view_of(part, attention, heard["output"], heard["x"], heard["context"], place, size))
        return x

    sigma = model.get_model_object("model_sampling").percent_to_sigma(progress)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(conditioning, conditioning)
    guider.set_cfg(1.0)
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    sigmas = torch.tensor([min(sigma, float(model.get_model_object("model_sampling").sigma_max)), 0.0])
    guider.sample(noise, samples, comfy.samplers.KSAMPLER(once), sigmas, disable_pbar=True, seed=seed)
    return found


@contextlib.contextmanager
def _listening(block: BasicTransformerBlock) -> Iterator[dict[str, torch.Tensor]]:
    """A dictionary that a call of the block fills: its answer, and what its self-attention reads."""
    heard: dict[str, torch.Tensor] = {}

    def answered(_: Any, __: Any, answer: torch.Tensor) -> None:
        heard["output"] = answer

    def read(_: Any, arguments: Any, keywords: Any) -> None:
        context = keywords.get("context", arguments[1] if len(arguments) > 1 else None)
        heard["x"], heard["context"] = arguments[0], arguments[0] if context is None else context

    handles = [
        block.register_forward_hook(answered),
        block.attn1.register_forward_pre_hook(read, with_kwargs=True),
    ]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()
