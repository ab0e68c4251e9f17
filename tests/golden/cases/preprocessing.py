"""Cases `sketch_preprocess`, `mask_preprocess`: from the artist's picture to sketch, reference and figure masks."""

from __future__ import annotations

import torch

from ..ours import ours
from ..registry import case
from .extractors import pillow_squash


@case("sketch_preprocess")
def sketch_preprocess(golden, check):
    images, lineart = ours("colorize.pictures.images"), ours("colorize.sketch.extractors.lineart")
    picture = golden.inputs["image_uint8_hwc"].float()[None] / 255
    check("reference_tensor", images.comfy_image_to_model(picture))
    drawn = {
        "sketch.none": images.comfy_image_to_sketch(picture, polarity="light_on_dark"),
        "sketch.invert": images.comfy_image_to_sketch(picture, polarity="dark_on_light"),
    }
    drawn["sketch.invert-webui"] = lineart.standard(images.invert(drawn["sketch.invert"])).expand(-1, 3, -1, -1)
    for run, sketch in drawn.items():
        settings = golden.runs[run]
        canvas, frame = images.place(sketch, *settings["target_hw"], fit="pad")
        check(run, canvas)
        box = [frame.left, frame.top, frame.box_width, frame.box_height]
        if box != settings["placed_at_left_top_width_height"]:
            raise ValueError(f"{run}: placed at {box}, recorded {settings['placed_at_left_top_width_height']}")
    extract_route(golden, check, picture)
    check.skip("pad_reference_*", "white side margins of the reference are not offered")


def extract_route(golden, check, picture):
    """The mode "extract" around an extractor that only inverts, and SketchKeras around a network that does nothing."""
    images = ours("colorize.pictures.images")
    sketchkeras = ours("colorize.sketch.extractors.sketchkeras").SketchKeras()
    colours = images.comfy_image_to_model(picture)
    square = golden.runs["sketch.extract"]["extractor_receives_size"]
    target, source = golden.runs["sketch.invert"]["target_hw"], colours.shape[-2:]
    sketch = -pillow_squash(golden.inputs["image_uint8_hwc"], *square)
    check("sketch.extract_with_plain_inversion_stub", images.place(sketch, *target, source=source)[0])
    prepared = sketchkeras.prepare(colours)
    check("sketchkeras.network_input", prepared)
    check("sketchkeras.result_identity_network", sketchkeras.finish(prepared).expand(-1, 3, -1, -1))


def segmentation_stub(picture):
    """What the recorded runs used in place of the segmentation network."""
    return torch.sigmoid(4 * picture.mean(dim=1, keepdim=True))


@case("mask_preprocess")
def mask_preprocess(golden, check):
    masks = ours("colorize.pictures.masks")
    split = ours("colorize.unet.split_attention")
    image, mask = golden.inputs["image"], golden.inputs["mask_full"]
    for run, settings in golden.runs.items():
        size = settings["s"]
        if run.startswith("isnet.reference"):
            dilation = masks.DILATION if settings.get("dilate") else 1
            check(run, masks.figure_mask(segmentation_stub, image, size, dilation))
        else:
            check(run, masks.sketch_figure_mask(segmentation_stub, image, settings["th"], settings["tw"], size))
    height, width = mask.shape[-2:]
    check("latent_mask", split.to_latent_size(mask, height // 8, width // 8))
    check("mask_thresholding", masks.binary(mask, 0.5))
    cell = tuple(golden.config["mask_expansion_grid"])
    check("mask_expansion", masks.grow_to_grid(mask[:, 0], cell, variant="released"))

    target = golden.outputs["resize_and_crop"].shape[-2:]
    check("warp_resize", masks.squash(image, *target))
    check("resize_and_crop", masks.cut_and_resize(image, *target))
    check("crop_scale", torch.tensor(masks.shown_part(image.shape[-2:], target)))
