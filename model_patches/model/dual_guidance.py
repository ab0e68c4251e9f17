"""Dual guidance as a GUIDER: one scale for the reference, one for the sketch, on every sampler and scheduler.

Formula and source: `sampling.guidance.dual_guidance`. Three lists of conditions are evaluated: positive, negative (no
reference, same sketch) and the positive with a blank sketch. ComfyUI runs rows of different controls in separate calls,
so a step takes two calls of the U-Net (two rows and one row). A scale of 1 skips its branch.
"""

from __future__ import annotations

import math
from typing import Any

import comfy.model_patcher
import comfy.samplers
import torch

from ...colorize.sampling.guidance import dual_as_single
from .sketch_control import SketchControl


class DualGuider(comfy.samplers.CFGGuider):
    """Guides away from "no reference" and from "no sketch". Settings are given once; runs do not change them."""

    def __init__(
        self,
        model_patcher: comfy.model_patcher.ModelPatcher,
        positive: list,
        negative: list,
        reference_scale: float,
        sketch_scale: float,
    ) -> None:
        """positive, negative: conditioning lists of Apply Reference after Apply ControlNet. Scales from 1 (off) on.

        Raises ValueError for a scale below 1, and for a sketch scale when positive has no sketch of ours.
        """
        super().__init__(model_patcher)
        for name, scale in (("reference_scale", reference_scale), ("sketch_scale", sketch_scale)):
            if not (math.isfinite(scale) and scale >= 1):
                raise ValueError(f"{name} is {scale}; choose 1 (no guidance) or more.")
        self.reference_scale, self.sketch_scale = reference_scale, sketch_scale
        self.cfg = self._overall_scale()
        conds = {"positive": positive, "negative": negative}
        self._blanks: dict = {}
        if guides(sketch_scale):
            conds["no_sketch"], self._blanks = without_sketch(positive, sketch_scale)
        self.inner_set_conds(conds)

    def _overall_scale(self) -> float:
        if guides(self.reference_scale) and guides(self.sketch_scale):
            return (self.reference_scale + self.sketch_scale) / 2
        return self.sketch_scale if guides(self.sketch_scale) else self.reference_scale

    def predict_noise(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor,
        model_options: dict[str, Any] = {},  # noqa: B006 - as inherited
        seed: int | None = None,
    ) -> torch.Tensor:
        """Denoised latent (B, 4, h, w) of x at the noise level `timestep` (B,).

        The dual formula reaches ComfyUI's own sampling function as single guidance at the mean scale, so everything
        that patches guidance (before, instead of, or after it) is called once a step with values that belong together.
        """
        positive, negative = self.conds["positive"], self.conds["negative"]
        if not guides(self.sketch_scale):
            return comfy.samplers.sampling_function(
                self.inner_model, x, timestep, negative, positive, self.cfg, model_options, seed
            )
        # ComfyUI gives every list the areas of the others, and copies the others' sketches along.
        no_sketch = [blanked(cond, self._blanks) for cond in self.conds["no_sketch"]]
        patched = model_options.get("sampler_calc_cond_batch_function")

        def evaluate(args: Any) -> list[torch.Tensor]:
            """[cond, uncond] for single guidance."""
            # Patches expect a pair. The blank sketch keeps its reference, so it runs as a positive of its own: patches
            # that treat the two sides differently treat it like the positive.
            pair = [positive, negative if guides(self.reference_scale) else None]
            if patched is None:
                cond, no_reference = comfy.samplers.calc_cond_batch(args["model"], pair, x, timestep, model_options)
            else:
                cond, no_reference = patched({**args, "conds": pair, "model_options": model_options})
            (blank,) = comfy.samplers.calc_cond_batch(args["model"], [no_sketch], x, timestep, model_options)
            if pair[1] is None:
                return [cond, blank]
            return [cond, dual_as_single(no_reference, blank, self.reference_scale, self.sketch_scale)[0]]

        options = {**model_options, "sampler_calc_cond_batch_function": evaluate}
        uncond = negative if guides(self.reference_scale) else no_sketch
        return comfy.samplers.sampling_function(
            self.inner_model, x, timestep, uncond, positive, self.cfg, options, seed
        )


def guides(scale: float) -> bool:
    """Whether a guidance scale does anything."""
    return not math.isclose(scale, 1.0)


def without_sketch(positive: list, sketch_scale: float) -> tuple[list, dict]:
    """(conditioning with blank sketches in place of all sketches of ours, {control of positive: its blank twin}).

    Entries that share a control share the blank one, so that they still run in one call.
    """
    blanks = {}
    for _, options in positive:
        control = options.get("control")
        if control is not None and control not in blanks:
            blank = blank_chain(control)
            if blank is not control:
                blanks[control] = blank
    if not blanks:
        raise ValueError(
            f"The sketch scale is {sketch_scale:g}, but positive carries no sketch of a ColorizeDiffusion model. Put "
            "Apply ControlNet (with control_net of Load ColorizeDiffusion Checkpoint, strength above 0) between Apply "
            "Reference and this node, or set sketch_scale to 1."
        )
    return [[tokens, blanked(options, blanks)] for tokens, options in positive], blanks


def blanked(options: dict, blanks: dict) -> dict:
    """Options of a condition with its control exchanged for the blank twin, when it has one."""
    twin = blanks.get(options.get("control"))
    return options if twin is None else {**options, "control": twin}


def blank_chain(control: Any) -> Any:
    """A chain of controls with every sketch of ours blank; other controls stay. `control` itself when none is ours."""
    if control is None:
        return None
    previous = blank_chain(control.previous_controlnet)
    if isinstance(control, SketchControl):
        return control.blank().set_previous_controlnet(previous)
    if previous is control.previous_controlnet:
        return control
    return control.copy().set_previous_controlnet(previous)
