"""What stage distill costs."""

from __future__ import annotations

from trainer.config import Config

from . import adapted
from .colorizer_cost import v1_cost
from .cost import Cost, quantised
from .sizes import is_xl
from .xl_cost import xl_cost

U_NET = "U-Net"


def cost(config: Config) -> Cost:
    """As the family's own stage, which the student is trained like; its other networks are frozen, and so is the
    teacher, which with [adapter] is the student's own network. Its passes keep nothing for the backward pass."""
    whole = (xl_cost if is_xl(config) else v1_cost)(config)
    if adapted.wanted(config):
        return whole
    frozen = {name: size for name, size in whole.trained.items() if name != U_NET} | dict(whole.frozen)
    student = whole.trained[U_NET]
    return Cost(
        {U_NET: student},
        {"teacher": student} | frozen,
        whole.shapes,
        whole.activations,
        whole.largest,
        quantised=quantised(config, frozen),
    )
