"""Turn a coloured picture into a drawing."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import folder_paths
import torch
from comfy_api.v0_0_2 import io

from ..colorize.pictures import images
from ..colorize.sketch.extractors import lineart
from ..colorize.sketch.extractors.xdog import VARIANTS, XDoG
from ..model_patches.inputs import extractors
from ..model_patches.inputs.extractors import LoadedLineExtractor
from .sockets import CATEGORY, Node, transparency_input

LineExtractorSocket = io.Custom("LINE_EXTRACTOR")  # model_patches.inputs.extractors.LoadedLineExtractor

METHODS = ("auto", "standard", "xdog")


def extract_sketch(
    picture: torch.Tensor,
    extractor: LoadedLineExtractor | None = None,
    method: str = "auto",
    resolution: int = 0,
    variant: str = "paper",
    standard: dict[str, float] | None = None,
    xdog: dict[str, float] | None = None,
) -> torch.Tensor:
    """Pictures (B, 3, H, W) in -1..1 -> comfy picture of the drawings (B, H, W, 3), dark lines on white.

    standard, xdog: settings of the two methods without weights, see inputs.extractors.extract_without_network.
    """
    if method not in METHODS:
        raise ValueError(f"Method {method!r} is unknown; choose one of {', '.join(METHODS)}.")
    if variant not in VARIANTS:
        raise ValueError(f"Variant {variant!r} is unknown; choose one of {', '.join(VARIANTS)}.")
    if method == "auto" and extractor is not None:
        sketch = extractor.extract(picture, resolution, variant)
    elif method == "xdog":
        sketch = extractors.extract_without_network(picture, "xdog", resolution, variant=variant, **(xdog or {}))
    else:
        sketch = extractors.extract_without_network(picture, "standard", resolution, **(standard or {}))
    return images.model_image_to_comfy(images.invert(sketch)).repeat(1, 1, 1, 3)


class ColorizeLoadLineExtractor(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeLoadLineExtractor",
            display_name="Load Line Extractor",
            category=CATEGORY + "/tools",
            description="Loads a network that turns pictures into drawings, for Extract Sketch: SketchKeras, "
            "Anime2Sketch, MangaLine or lineart_sk. Not needed for its methods standard and xdog.",
            search_aliases=["lineart model", "sketchkeras", "anime2sketch", "manga line", "erika", "annotator"],
            inputs=[
                io.Combo.Input(
                    "extractor_name",
                    options=folder_paths.get_filename_list(extractors.FOLDER),
                    tooltip=f"File in models/{extractors.FOLDER}: model.pth (SketchKeras), netG.pth (Anime2Sketch), "
                    "erika.pth (MangaLine), sk_model.pth (lineart_sk). Which network it is, its contents say. The help "
                    "page has the addresses.",
                ),
            ],
            outputs=[
                LineExtractorSocket.Output(
                    display_name="extractor", tooltip="The loaded network. Goes to Extract Sketch."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, extractor_name: str) -> bool | str:
        found = folder_paths.get_filename_list(extractors.FOLDER)
        return True if extractor_name in found else extractors.where_to_get(extractor_name)

    @classmethod
    def execute(cls, extractor_name: str) -> io.NodeOutput:
        try:
            path = folder_paths.get_full_path_or_raise(extractors.FOLDER, extractor_name)
        except FileNotFoundError:
            raise FileNotFoundError(extractors.where_to_get(extractor_name)) from None
        return io.NodeOutput(extractors.load_line_extractor(path))


def _number(name: str, default: float, low: float, high: float, step: float, tooltip: str) -> Any:
    return io.Float.Input(
        name, default=default, min=low, max=high, step=step, optional=True, advanced=True, tooltip=tooltip
    )


class ColorizeExtractSketch(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeExtractSketch",
            display_name="Extract Sketch",
            category=CATEGORY + "/tools",
            description="To recolour a finished picture: turns it into a drawing, dark lines on white, of the same "
            "size. Then: Prepare Sketch. A scan of a drawing usually needs no extraction, only Prepare Sketch.",
            search_aliases=[
                "line art",
                "lineart preprocessor",
                "xdog",
                "sketchkeras",
                "anime2sketch",
                "extract lines",
                "edge detection",
                "recolor",
            ],
            inputs=[
                io.Image.Input("image", tooltip="The coloured picture, or a batch of them. Any size."),
                LineExtractorSocket.Input(
                    "extractor",
                    optional=True,
                    tooltip="From Load Line Extractor. Without it the methods that need no weights are used.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="auto",
                    optional=True,
                    tooltip="auto: the connected extractor; without one, standard. standard: what is darker than its "
                    "surroundings, with soft grey lines; for most pictures. xdog: black and white lines as "
                    "AnimeDiffusion was trained on; for clean pictures with dark outlines.",
                ),
                io.Int.Input(
                    "resolution",
                    default=0,
                    min=0,
                    max=4096,
                    step=16,
                    optional=True,
                    tooltip="Working size in pixels, as the side of a square of the same area; the drawing always "
                    "gets the size of the picture. 0: 768 for networks, as in the released XL application (SD1.5: "
                    "512), and the picture's own size for standard and xdog. Larger: finer and more lines.",
                ),
                transparency_input("mask", "picture"),
                io.Combo.Input(
                    "variant",
                    options=list(VARIANTS),
                    default="paper",
                    optional=True,
                    advanced=True,
                    tooltip="paper: proportions are kept, everything as the authors meant it. released: as the "
                    "official applications compute it, to repeat their results: networks get the picture squashed to "
                    "a square, MangaLine reads only red, lineart_sk has half the contrast; xdog multiplies with the "
                    "grey picture.",
                ),
                _number(
                    "standard_sigma",
                    lineart.SIGMA,
                    0.5,
                    100.0,
                    0.5,
                    "Of standard: blur in pixels that counts as surroundings, 0.5 to 100; 6 as released. Larger keeps "
                    "wider lines and more shading.",
                ),
                _number(
                    "standard_threshold",
                    lineart.THRESHOLD,
                    0.0,
                    255.0,
                    1.0,
                    "Of standard: lines weaker than this, of 0 to 255, do not count when the typical strength is "
                    "measured; 8 as released. Larger makes all lines fainter.",
                ),
                _number(
                    "xdog_sigma",
                    XDoG.sigma,
                    0.1,
                    20.0,
                    0.05,
                    "Of xdog: width of the smaller blur in pixels, 0.1 to 20. The paper uses 0.3, 0.4 and 0.5 on "
                    "pictures of 256 pixels; 0.5 catches the least grain. Larger: thicker and fewer lines.",
                ),
                _number("xdog_k", XDoG.k, 1.05, 20.0, 0.05, "Of xdog: the larger blur, times the smaller; paper: 3.5."),
                _number(
                    "xdog_p",
                    XDoG.p,
                    0.0,
                    200.0,
                    0.5,
                    "Of xdog: how much the difference of the blurs counts, 0 to 200. 9 in the paper, 10 in the "
                    "released code. Larger: more lines.",
                ),
                _number(
                    "xdog_epsilon",
                    XDoG.epsilon,
                    -1.0,
                    1.0,
                    0.01,
                    "Of xdog: threshold, -1 to 1; paper where the response is at least this. 0.01 in the paper. "
                    "Larger: dark areas turn black.",
                ),
                _number(
                    "xdog_phi",
                    XDoG.phi,
                    0.1,
                    1e9,
                    1.0,
                    "Of xdog: slope below the threshold, 0.1 to 1e9. 1e9 in the paper: black and white. About 10: soft "
                    "lines.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="sketch",
                    tooltip="The drawing, dark lines on white, of the picture's size. Goes to Prepare Sketch.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        extractor: LoadedLineExtractor | None = None,
        method: str = "auto",
        resolution: int = 0,
        mask: torch.Tensor | None = None,
        variant: str = "paper",
        standard_sigma: float = lineart.SIGMA,
        standard_threshold: float = lineart.THRESHOLD,
        xdog_sigma: float = XDoG.sigma,
        xdog_k: float = XDoG.k,
        xdog_p: float = XDoG.p,
        xdog_epsilon: float = XDoG.epsilon,
        xdog_phi: float = XDoG.phi,
    ) -> io.NodeOutput:
        sketch = extract_sketch(
            images.comfy_image_to_model(image, mask, "image"),
            extractor,
            method,
            resolution,
            variant,
            standard=dict(sigma=standard_sigma, threshold=standard_threshold),
            xdog=dict(sigma=xdog_sigma, k=xdog_k, p=xdog_p, epsilon=xdog_epsilon, phi=xdog_phi),
        )
        return io.NodeOutput(
            sketch.to(
                device=comfy.model_management.intermediate_device(), dtype=comfy.model_management.intermediate_dtype()
            )
        )
