"""Fused backward pass: every parameter is stepped, and its gradient freed, as soon as its gradient is complete.

Known under this name from sd-scripts (--fused_backward_pass) and OneTrainer; the way is PyTorch's own ("How to save
memory by fusing the optimizer step into the backward pass", register_post_accumulate_grad_hook). The optimiser stays
one, with the numbers and the state of the plain loop: while a hook runs, its parameter is the only one with a gradient.
"""

from __future__ import annotations

import functools

import torch


class FusedBackward:
    """Steps the parameters of an optimiser during each backward pass; afterwards none of them has a gradient.

    For optimisers whose parameters do not know of each other, and one backward pass a step.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self._squares: list[torch.Tensor] = []
        self._begun = False
        for number, group in enumerate(optimizer.param_groups):
            for parameter in group["params"]:
                parameter.register_post_accumulate_grad_hook(functools.partial(self._step, number))

    @torch.no_grad()
    def _step(self, number: int, parameter: torch.Tensor) -> None:
        """Step one parameter of group `number`, which a resumed run loads anew: its settings count as they are now."""
        gradient, groups = parameter.grad, self.optimizer.param_groups
        if gradient is None:
            return
        self._squares.append(torch.linalg.vector_norm(gradient, dtype=torch.float32).square())
        if self._begun:  # the very first step sees all parameters: an optimiser may prepare itself for them
            self.optimizer.param_groups = [groups[number] | {"params": [parameter]}]
        try:
            self.optimizer.step()
        finally:
            self.optimizer.param_groups = groups
        self._begun = True
        parameter.grad = None

    def norm(self) -> torch.Tensor:
        """The norm of all gradients since the last call: a report, for there is nothing left to clip."""
        squares, self._squares = self._squares, []
        return torch.stack(squares).sum().sqrt() if squares else torch.zeros(())
