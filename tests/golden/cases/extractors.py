"""Cases `pre_*` of the line extractors and `ad_xdog`: networks, and the released routes around them."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..ours import ours
from ..registry import Tolerance, case

AUTHORS = "resizing and 8-bit steps of the author's command line, around a network that is compared here"
OTHER_PACK = "resizing and 8-bit steps of another node pack, around a network that is compared here"
SQUARE, XL_SQUARE = 512, 768  # pixels; to which the released applications squash a picture


def network_of(golden):
    return ours("colorize.sketch.extractors").load_network(golden.weights)


def pictures(golden, name="image"):
    """Recorded 8-bit picture (H, W, 3) -> (1, 3, H, W) in -1..1."""
    return golden.inputs[name].movedim(-1, 0)[None].float() / 127.5 - 1


def compare_stats(golden, check, network, x, tolerance):
    """Mean, deviation and largest value of what the recorded modules answer, in the order of the calls.

    Steps that are no module of ours (additions) take the recorded values. Gives the network's answer to x.
    """
    modules = dict(network.named_modules())
    rows, handles = golden.outputs["stats"].clone(), []

    def listen(module, index):
        def hook(_, __, y):
            rows[index] = torch.stack([y.mean(), y.std(), y.abs().max()])

        handles.append(module.register_forward_hook(hook))

    for index, name in enumerate(golden.config["stats_modules"]):
        if name in modules:
            listen(modules[name], index)
    answer = network(x)
    for handle in handles:
        handle.remove()
    check("stats", rows, tolerance)
    return answer


def pillow_squash(picture, height, width):
    """8-bit picture (H, W, 3) -> (1, 3, height, width) in -1..1, as Pillow's bicubic gives it, which rounds twice."""
    import numpy
    from PIL import Image

    resized = Image.fromarray(picture.numpy()).resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(numpy.array(resized)).movedim(-1, 0)[None].float() / 127.5 - 1


def compare_application(golden, check, network):
    """Squash, extract, and place on the canvas: the released SD1.5 application from picture to model sketch."""
    extractors, images = (ours(f"colorize.{name}") for name in ("sketch.extractors", "pictures.images"))
    sketch = extractors.lines(network, pillow_squash(golden.inputs["image"], SQUARE, SQUARE), "released")
    source = golden.inputs["image"].shape[:2]
    canvas, frame = images.place(sketch, *golden.config["app_target"], fit="pad", source=source)
    check("app_sd15_sketch", canvas)
    box = [frame.left, frame.top, frame.box_width, frame.box_height]
    if box != golden.config["app_box_sd15"]:
        raise ValueError(f"placed at {box}, recorded {golden.config['app_box_sd15']}")
    check(
        "app_xl_net_input_every8",
        network.prepare(pillow_squash(golden.inputs["image"], XL_SQUARE, XL_SQUARE), "released")[..., ::8, ::8],
    )
    check.skip("app_xl_*", "the route of app_sd15 with a larger square; it takes a minute")


@case("pre_sketchkeras")
def sketchkeras(golden, check):
    blur = ours("colorize.pictures.blur")
    network, picture = network_of(golden), pictures(golden)
    check("y", compare_stats(golden, check, network, golden.inputs["x"], Tolerance(1e-4, 1e-4)))
    check("blurred", blur.gaussian_of_levels(blur.levels(picture), 3.0)[0].movedim(0, -1))
    prepared = network.prepare(picture, "released")
    answer = network(prepared)
    sketch = network.finish(answer, "released")
    check("net_input", prepared)
    check("net_output", answer)
    check("proceed_xl", sketch)
    check("proceed_sd15", sketch.expand(-1, 3, -1, -1))
    compare_application(golden, check, network)
    check.skip("original_*", AUTHORS)


@case("pre_anime2sketch_tiny")
def anime2sketch_tiny(golden, check):
    network = network_of(golden)
    check("y", network(golden.inputs["x"]))
    check("proceed_xl", ours("colorize.sketch.extractors").lines(network, pictures(golden), "released"))


@case("pre_anime2sketch")
def anime2sketch(golden, check):
    import numpy

    network = network_of(golden)
    draw = numpy.random.RandomState(int(golden.inputs["x_seed"])).uniform(-1, 1, 3 * 256 * 256)
    x = torch.from_numpy(draw.astype(numpy.float32).reshape(1, 3, 256, 256))
    check("y_every4", network(x)[..., ::4, ::4])
    compare_application(golden, check, network)
    check.skip("original_*", AUTHORS)
    check.skip("aux_*", OTHER_PACK)


@case("pre_manga_line")
def manga_line(golden, check):
    levels = Tolerance(2e-4, 1e-5)  # values of 0..255
    extractors = ours("colorize.sketch.extractors")
    network = network_of(golden)
    answer = compare_stats(golden, check, network, golden.inputs["x"], Tolerance(1e-4, 1e-4))
    check("y", answer, levels)
    check("y_sd15_forward", -network.finish(answer))
    sketch = extractors.lines(network, pictures(golden), "released")
    check("proceed_xl", sketch)
    check("proceed_sd15_ch0", sketch)
    compare_application(golden, check, network)
    check.skip("aux_*", OTHER_PACK)


@case("pre_manga_blocks")
def manga_blocks(golden, check):
    module = ours("colorize.sketch.extractors.manga_line")
    kinds = {"residual_first": "same", "residual_down": "down", "upsampling": "up", "upsampling_same": "up"}
    for name, settings in golden.constructor.items():
        stage = module.stage(settings["in_filters"], settings["nb_filters"], settings["repetitions"], kinds[name])
        prefix = f"{name}."
        stage.load_state_dict({k.removeprefix(prefix): v for k, v in golden.weights.items() if k.startswith(prefix)})
        check(name, stage.eval()(golden.inputs[name]))


@case("pre_lineart_sk")
def lineart_sk(golden, check):
    extractors = ours("colorize.sketch.extractors")
    network = network_of(golden)
    check("y", compare_stats(golden, check, network, golden.inputs["x"], Tolerance(1e-4, 1e-4)))
    check("y_x255", network(255 * golden.inputs["x"]))
    check("proceed_xl", extractors.lines(network, pictures(golden), "released"))
    compare_application(golden, check, network)
    check.skip("aux_*", OTHER_PACK)


@case("pre_lineart_standard")
def lineart_standard(golden, check):
    extractors = "colorize.sketch.extractors"
    lineart, blur, images = (
        ours(f"{extractors}.lineart"),
        ours("colorize.pictures.blur"),
        ours("colorize.pictures.images"),
    )
    picture = pictures(golden)
    check("blur_sigma6", blur.gaussian((picture + 1) * 127.5, 6.0)[0].movedim(0, -1), Tolerance(2e-4))
    sketch = lineart.standard(picture)
    check("app", sketch.expand(-1, 3, -1, -1))
    check("app_flat", lineart.standard(pictures(golden, "flat")).expand(-1, 3, -1, -1))
    check("aux_0", ((sketch + 1) * 127.5)[0, 0])
    check("aux_0_sigma2_thr3", ((lineart.standard(picture, 2.0, 3.0) + 1) * 127.5)[0, 0])
    target = golden.config["app_target"]
    check("preprocess_sd_none", images.place(picture, *target)[0])
    check("preprocess_sd_invert", images.place(-picture, *target)[0])
    for app in ("sd", "xl"):
        check(f"preprocess_{app}_invert-webui", images.place(sketch.expand(-1, 3, -1, -1), *target)[0])
    # The XL application resizes in Pillow and pads with white before it negates.
    frame = images.place(picture, *target)[1]
    resized = pillow_squash(golden.inputs["image"], frame.box_height, frame.box_width)
    canvas, _ = images.place(resized, *target, blank=1.0, source=picture.shape[-2:])
    check("preprocess_xl_none", canvas)
    check("preprocess_xl_invert", -canvas)
    check.skip("aux_*", OTHER_PACK)


@case("ad_xdog")
def xdog(golden, check):
    module = ours("colorize.sketch.extractors.xdog")
    blur = ours("colorize.pictures.blur")
    picture = pictures(golden)
    grey = blur.grey_levels(blur.levels(picture))
    check("gray", grey[0, 0])
    for sigma in (0.3, 0.4, 0.5):
        prefix = f"sigma{sigma}."
        released = module.XDoG(sigma=sigma, p=10.0, variant="released")
        paper = module.XDoG(sigma=sigma)
        check(f"{prefix}blur_small", blur.gaussian(grey / 255, sigma)[0, 0])
        check(f"{prefix}blur_large", blur.gaussian(grey / 255, sigma * released.k)[0, 0])
        check(f"{prefix}sharp", module.response(grey / 255, replace(released, variant="paper"))[0, 0])
        times_image = module.response(grey / 255, released)
        check(f"{prefix}times_image", times_image[0, 0])
        check(f"{prefix}soft_phi10", module.threshold(times_image, replace(released, phi=10.0))[0, 0])
        runs = {"line": released, "line_paper": paper, "line_p9_times_image": replace(paper, variant="released")}
        for name, settings in runs.items():
            check(f"{prefix}{name}", (1 - module.xdog(picture, settings))[0, 0] * 127.5)
