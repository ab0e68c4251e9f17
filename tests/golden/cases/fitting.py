"""Case `fitting_weights`: weights of one size made to fit layers of another, as `--init-from` does."""

from __future__ import annotations

from ..ours import ours
from ..registry import case


@case("fitting_weights")
def fitting_weights(golden, check):
    fit = ours("trainer.run.init_from").fit
    for name, shape in golden.config["new_shapes"].items():
        check(name, fit(golden.inputs[name], shape))
