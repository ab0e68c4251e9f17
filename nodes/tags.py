"""Describe a reference in tags."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from comfy_api.v0_0_2 import io

from ..colorize.reference.tag_lists import ORDERS, THRESHOLDS, TagOptions, Tags, line, select
from ..colorize.reference.wd_tagger import PREPARATIONS
from ..model_patches.reference.tagger import LoadedTagger, load_tagger, tagger_files, tagger_path
from .known_before import offered
from .sockets import CATEGORY, Node, TaggerSocket, provider_input, transparency_input

TagFeaturesSocket = io.Custom("COLORIZE_TAG_FEATURES")  # model_patches.reference.tagger.TagFeatures


class ColorizeLoadTagger(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeLoadTagger",
            display_name="Load Tagger",
            category=CATEGORY + "/reference",
            description="Loads a WD tagger, which names what is in an anime picture, for Tag Reference and XL "
            "models. Tag Reference also needs its selected_tags.csv beside it; XL models do not.",
            search_aliases=["wd14", "wd tagger", "interrogate", "danbooru tags", "load tagger"],
            inputs=[
                io.Combo.Input(
                    "tagger_name",
                    options=tagger_files(),
                    tooltip="File in models/colorize_taggers: a Swin V2 tagger as .safetensors (needs nothing else), "
                    "or any WD tagger as .onnx (needs onnxruntime). Addresses are on the help page.",
                ),
                provider_input(),
            ],
            outputs=[TaggerSocket.Output(display_name="tagger", tooltip="The tagger. Goes to Tag Reference.")],
        )

    @classmethod
    def validate_inputs(cls, tagger_name: str) -> bool | str:
        fits = "a WD tagger (this node's help page has addresses)"
        return offered(tagger_name, tagger_files(), ("colorize_taggers",), fits)

    @classmethod
    def execute(cls, tagger_name: str, provider: str = "auto") -> io.NodeOutput:
        return io.NodeOutput(load_tagger(tagger_path(tagger_name), provider))


class ColorizeTagReference(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeTagReference",
            display_name="Tag Reference",
            category=CATEGORY + "/reference",
            description="Use it to read what a tagger sees in a reference or a result: tags for prompts, captions and "
            "sorting, characters and rating apart.",
            search_aliases=["wd14 tagger", "interrogate", "caption", "danbooru tags", "describe image"],
            inputs=[
                TaggerSocket.Input("tagger", tooltip="From Load Tagger."),
                io.Image.Input("image", tooltip="Pictures of any size; one line of tags for each."),
                io.Float.Input(
                    "threshold",
                    default=0.35,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Probability a tag must exceed, 0 to 1. Lower gives more and less certain tags. Taggers of "
                    "v3 are good at 0.25.",
                ),
                io.Float.Input(
                    "character_threshold",
                    default=0.85,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The same for names of characters, 0 to 1.",
                ),
                io.String.Input(
                    "exclude",
                    default="",
                    tooltip="Tags to leave out, separated by commas; spaces or underscores, capitals or not.",
                ),
                io.Boolean.Input(
                    "underscores",
                    default=False,
                    tooltip="On: long_hair. Off: long hair; faces such as ^_^ keep theirs.",
                ),
                io.Boolean.Input(
                    "scores", default=False, optional=True, advanced=True, tooltip="Writes (tag:0.85) with probability."
                ),
                io.Boolean.Input(
                    "escape_brackets",
                    default=True,
                    optional=True,
                    advanced=True,
                    tooltip="Writes \\( and \\) for brackets, as prompts want them. Off for captions.",
                ),
                io.Combo.Input(
                    "rule",
                    options=list(THRESHOLDS),
                    default="fixed",
                    optional=True,
                    advanced=True,
                    tooltip="fixed: the two thresholds. gap: each picture is cut in the largest gap between its sorted "
                    "probabilities (maximum cut), characters not below 0.15.",
                ),
                io.Combo.Input(
                    "order",
                    options=list(ORDERS),
                    default="score",
                    optional=True,
                    advanced=True,
                    tooltip="score: the most probable first. list: as in the tagger's list.",
                ),
                io.Combo.Input(
                    "preparation",
                    options=list(PREPARATIONS),
                    default="author",
                    optional=True,
                    advanced=True,
                    tooltip="How a picture becomes the tagger's square. author: white margins, bicubic. xl: squashed, "
                    "as the SDXL colouring models read it. wd14_node, sd_scripts: as those programs do, to repeat "
                    "their tags.",
                ),
                transparency_input("mask", "picture"),
            ],
            outputs=[
                io.String.Output(display_name="tags", is_output_list=True, tooltip="General tags, a line per picture."),
                io.String.Output(
                    display_name="characters", is_output_list=True, tooltip="Names of characters, a line per picture."
                ),
                io.String.Output(
                    display_name="rating",
                    is_output_list=True,
                    tooltip="The most probable of general, sensitive, questionable, explicit, per picture.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="Every tag with its probability, the file, what computed it (graphics card or CPU), and "
                    "what is wrong with onnxruntime if anything is.",
                ),
                TagFeaturesSocket.Output(
                    display_name="features",
                    tooltip="The tagger's patch features, which SDXL colouring models read. Set preparation to xl for "
                    "them. Nothing for .onnx files.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        tagger: LoadedTagger,
        image: torch.Tensor,
        threshold: float = 0.35,
        character_threshold: float = 0.85,
        exclude: str = "",
        underscores: bool = False,
        scores: bool = False,
        escape_brackets: bool = True,
        rule: str = "fixed",
        order: str = "score",
        preparation: str = "author",
        mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        options = TagOptions(
            threshold=threshold,
            character_threshold=character_threshold,
            rule=rule,
            exclude=exclude,
            spaces=not underscores,
            escape=escape_brackets,
            scores=scores,
            order=order,
        )
        names = tagger.tag_list()
        probabilities, features = tagger.answer(image, mask, preparation)
        found = [select(row, names, options) for row in probabilities]
        return io.NodeOutput(
            [line(tags.general, options) for tags in found],
            [line(tags.characters, options) for tags in found],
            [tags.rating[0] for tags in found],
            report(tagger, found),
            features,
        )


def report(tagger: LoadedTagger, found: Sequence[Tags]) -> str:
    """Text: the tagger and what computed, then the tags of each picture with their probabilities."""
    lines = [f"{tagger.file_name} ({tagger.provider})"]
    lines += [f"Note: {tagger.note}"] if tagger.note else []
    for number, tags in enumerate(found, start=1):
        rating, probability = tags.rating
        lines.append(f"Picture {number}: rating {rating or 'unknown'} {probability:.2f}")
        lines += [f"  {name} {value:.2f} (character)" for name, value in tags.characters]
        lines += [f"  {name} {value:.2f}" for name, value in tags.general]
    return "\n".join(lines)
