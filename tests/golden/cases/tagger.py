"""Cases `pre_wd_tagger` and `xl_wd_tagger`: pictures for the tagger, its answers, and tags as text."""

from __future__ import annotations

import json

import torch

from ..ours import ours
from ..registry import Tolerance, case

ONE_LEVEL = 1.01  # of 255: resampling in whole levels, rounded by other libraries
ROUTES = {  # recorded name -> preparation, layout
    "space_nhwc": ("author", "onnx"),
    "timm_nchw": ("author", "network"),
    "comfy_nhwc": ("wd14_node", "onnx"),
    "sdscripts_hwc": ("sd_scripts", "bare"),
    "cdxl_nchw": ("xl", "network"),
}


@case("pre_wd_tagger")
def wd_tagger_pictures(golden, check):
    tagger, images = ours("colorize.reference.wd_tagger"), ours("colorize.pictures.images")

    def answer(image, preparation, layout, size):
        colours = images.on_white(*images.rgb_and_alpha(image[None].float() / 255))
        pixels = tagger.prepare(colours, size, preparation)
        if layout == "network":
            return tagger.to_network(pixels)
        return tagger.to_onnx(pixels)[0] if layout == "bare" else tagger.to_onnx(pixels)

    for name, (preparation, layout) in ROUTES.items():
        unit = 1 / 127.5 if layout == "network" else 1.0
        tolerance = Tolerance(1e-4 if preparation == "xl" else ONE_LEVEL * unit)
        family, _, order = name.partition("_")
        check(name, answer(golden.inputs["image"], preparation, layout, golden.config["size"]), tolerance)
        see_through = answer(golden.inputs["image_rgba"], preparation, layout, golden.config["size"])
        check(f"{family}_rgba_{order}", see_through, tolerance)
        large = answer(golden.inputs["image"], preparation, layout, 448)
        rows = (slice(None, None, 7),) * 2
        place = {"network": (..., *rows), "onnx": (slice(None), *rows), "bare": rows}[layout]
        check(f"{name}_448_every7", large[place], tolerance)
    tag_strings(golden)


def tag_strings(golden):
    """Raises ValueError when a recorded line of tags comes out otherwise."""
    tags = ours("colorize.reference.tag_lists")
    names = tags.TagList(
        tuple(row[1] for row in golden.config["csv_rows"]), tuple(r[2] for r in golden.config["csv_rows"])
    )
    for text, recorded in golden.config["comfy_tag_strings"].items():
        given = json.loads(text)
        options = tags.TagOptions(
            threshold=given.get("threshold", 0.35),
            character_threshold=given.get("character_threshold", 0.85),
            exclude=given.get("exclude_tags", ""),
            spaces=given.get("replace_underscore", False),
            order="list",
            keep_kaomoji=False,  # the recorded application takes them apart
        )
        found = tags.select(golden.inputs["probs"][0], names, options)
        line = tags.line(found.characters + found.general, options)
        if line + (", " if given.get("trailing_comma") else "") != recorded:
            raise ValueError(f"tags with {text}: {line!r}, recorded {recorded!r}")


@case("xl_wd_tagger")
def wd_tagger(golden, check):
    module = ours("colorize.reference.wd_tagger")
    sizes = golden.constructor["timm"]
    metadata = {"colorize.image_size": str(sizes["img_size"]), "colorize.window_size": str(sizes["window_size"])}
    network = module.WDTagger.from_state_dict(golden.weights, metadata)

    def prepared(picture, size=network.image_size):  # recorded pictures are in -1..1
        return module.to_network(module.prepare((picture.float() + 1) / 2, size, "xl"))

    picture = prepared(golden.inputs["image"])
    check("preprocessed", picture)
    check("preprocessed_448_every_16", prepared(golden.inputs["image"], 448)[..., ::16, ::16])
    large = golden.inputs["image_large_u8"].float() / 127.5 - 1
    check("preprocessed_448_from_large_every_16", prepared(large, 448)[..., ::16, ::16])
    tokens = network.tokens(picture)
    pooled = tokens.mean(dim=1, keepdim=True)
    check("tokens", tokens)
    check("pooled", pooled)
    check("token_logits", network.logits(tokens))
    check("pooled_logits", network.logits(pooled))
    sketch = network.tokens(prepared(golden.inputs["sketch_white"]))
    check("sketch_pooled_logits", network.logits(sketch.mean(dim=1, keepdim=True)))
    geometry = ours("colorize.reference.geometry_tags")
    logits, seen = network.logits(tokens), network.logits(sketch.mean(dim=1, keepdim=True))
    check("token_logits_threshold_0p2", geometry.above_threshold(logits, 0.2))
    for name, scale in (("geometry_update", 1.0), ("geometry_update_scale0p5", 0.5)):
        check(name, geometry.geometry_update(logits, seen, golden.constructor["geometry_tags"], scale))
    assert torch.allclose(network(picture)[0], torch.sigmoid(network.logits(pooled))[:, 0])
