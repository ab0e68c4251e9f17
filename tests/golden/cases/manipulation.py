"""Cases `manipulation_global` and `manipulation_local`: editing tokens with words, in the variant `released`."""

from __future__ import annotations

from ..ours import ours
from ..registry import case


def text_vectors(golden):
    """name -> recorded text vector; "none" and null are no anchor."""
    table = dict(zip(golden.config["text_names"], golden.inputs["text_table"], strict=True))
    return lambda name: None if name in (None, "none") else table[name]


@case("manipulation_global")
def manipulate_global(golden, check):
    edit, vector = ours("colorize.reference.manipulation").manipulate_global, text_vectors(golden)
    for run, settings in golden.runs.items():
        if "targets" not in settings:
            continue
        tokens = golden.inputs["v"]
        names = ("targets", "anchors", "target_scales", "enhances")
        for target, anchor, scale, enhance in zip(*(settings[name] for name in names), strict=True):
            tokens = edit(tokens, vector(target), vector(anchor), scale, enhance, "released")
        check(run, tokens)
    settings = golden.runs["anchor_enhance"]
    target, anchor, scale = (settings[name][0] for name in ("targets", "anchors", "target_scales"))
    check("paper_eq7_anchor_enhance", edit(golden.inputs["v"], vector(target), vector(anchor), scale, True, "paper"))


@case("manipulation_local")
def manipulate_local(golden, check):
    module, vector = ours("colorize.reference.manipulation"), text_vectors(golden)
    m, distance = module.min_max(golden.inputs["pwv.s"]), golden.inputs["pwv.dscale"]
    for run, settings in golden.runs.items():
        if run.startswith("pwv."):
            thresholds, ratio = settings["thresholds"], settings["ratio"]
            check(run, module.position_weights(m, distance, thresholds, ratio, "released"))
        elif "targets" in settings:
            tokens = golden.inputs["v"]
            names = ("targets", "anchors", "controls", "target_scales", "enhances", "thresholds_list")
            for target, anchor, control, *rest in zip(*(settings[name] for name in names), strict=True):
                texts = (vector(name) for name in (target, anchor, control))
                tokens = module.manipulate_local(tokens, *texts, *rest, variant="released")
            check(run, tokens)
    for name in check.names("heatmap_*"):
        check(name, (m >= float(name.partition("_")[2])) * 0.25)
