"""fig2fig against vanilla, step by step as a sampler runs them (inside a process with ComfyUI and the pack).

A step is one in the middle of a run: what a run makes once (plans, keys and values) is there. What the first step costs
besides is printed as well: a picture of n steps pays it once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from ..golden.ours import ours
from .measure import paired

Step = Callable[[], torch.Tensor]


class Steps:
    """Steps of a model with region weights: without guidance (1 row) or with it (2 rows, the second shows nothing)."""

    def __init__(self, model, rows: int, size: int, count: int) -> None:
        self.model, self.rows = model, rows
        torch.manual_seed(0)
        latent = size // 8
        self.x = torch.randn(1, 4, latent, latent).repeat(rows, 1, 1, 1)
        self.sigma = model.model_sampling.sigmas[600:601].repeat(rows)
        self.tokens = torch.randn(1, count, model.context_dim)

    def _rows(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.cat([tokens, torch.zeros_like(tokens)][: self.rows])

    def vanilla(self, shared: bool = True, first: bool = False, **conds) -> Step:
        """A step with the conds of a run. shared: with its memory. first: every call begins a run."""
        module, payload = ours("model_patches.run_memory"), ours("model_patches.payload")
        memory = module.RunMemory()

        def step() -> torch.Tensor:
            given = dict(conds)
            if shared:
                given[module.MEMORY] = module.RunMemory() if first else memory
            if first and conds:
                given["colorize_settings"] = payload.StepSettings(split=conds["colorize_settings"].split)
            options = {"cond_or_uncond": [0, 1][: self.rows]}
            tokens = self._rows(self.tokens)
            return self.model.apply_model(self.x, self.sigma, c_crossattn=tokens, transformer_options=options, **given)

        return step

    def fig2fig(self, figures: int, both: bool = False, **how: bool) -> Step:
        """`figures` figures, each an upright stripe of the left half of the picture.

        both: every query answers for every region, as the released code computes it. how: see `vanilla`.
        """
        payload, split = ours("model_patches.payload"), ours("colorize.unet.split_attention")
        masks = torch.zeros(self.rows, figures, *self.x.shape[-2:])
        for figure, columns in enumerate(torch.arange(self.x.shape[-1] // 2).chunk(figures)):
            masks[:, figure, :, columns] = 1
        options = split.SplitOptions(
            kinds=("fg",) * figures + ("bg",), strengths=(1.0,) * (figures + 1), merge=0.5 if both else 0.0, soft=both
        )
        return self.vanilla(
            **how,
            colorize_settings=payload.StepSettings(split=options),
            colorize_tokens=[self._rows(self.tokens + figure + 1) for figure in range(figures)],
            colorize_masks=masks.clamp(min=1e-3) if both else masks,
        )


def bench_split(options: argparse.Namespace, random_model) -> None:
    """random_model() -> a model of `--width` with random weights, where a width is asked for."""
    if options.width:
        model, count = random_model(), 256
    else:
        patcher, *_ = ours("model_patches.checkpoint.loading").load_checkpoint(options.checkpoint)
        model, count = patcher.model, 196
    for rows, name in ((2, "with guidance"), (1, "without guidance")):
        steps = Steps(model, rows, options.size, count)
        vanilla, one = steps.vanilla(), steps.fig2fig(1)
        compared = (
            ("1 figure against vanilla", one, vanilla, " Bar: 1.05"),
            ("4 figures against vanilla", steps.fig2fig(4), vanilla, " Bar: 1.20"),
            ("both regions for every query against vanilla", steps.fig2fig(1, both=True), vanilla, ""),
            ("vanilla against the same with nothing shared", vanilla, steps.vanilla(shared=False), ""),
            ("1 figure against the same with nothing shared", one, steps.fig2fig(1, shared=False), ""),
            ("1 figure, a run's first step against its others", steps.fig2fig(1, first=True), one, ""),
        )
        for title, a, b, bar in compared:
            print(f"split, {name}: {title}: {paired(a, b, options.repeats)}.{bar}", flush=True)
