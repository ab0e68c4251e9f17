"""Keep an encoded reference in a file, and use it again without encoders."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from typing import Any

import folder_paths
import torch
from comfy_api.v0_0_2 import io, ui

from ..colorize.pictures import images
from ..colorize.pictures import palette as palettes
from ..colorize.reference import card
from ..colorize.reference.types import Reference
from ..model_patches.checkpoint.colorizer import Colorizer
from ..model_patches.reference.encoder import LoadedReferenceEncoder
from ..model_patches.reference.tagger import LoadedTagger
from .known_before import within
from .palette import palette_of_image
from .sockets import (
    CATEGORY,
    ColorizerSocket,
    Node,
    ReferenceEncoderSocket,
    ReferenceSocket,
    TaggerSocket,
    output_place,
)

FOLDER = "references"  # in ComfyUI's output folder
SUFFIX = ".safetensors"
FROM_OUTPUT = " [output]"


def card_files() -> list[str]:
    """Names of cards: files in the input folder, and those Save Reference wrote, marked as ComfyUI marks outputs."""
    names = [name for name in _files(folder_paths.get_input_directory()) if "/" not in name]
    saved = (f"{FOLDER}/{name}" for name in _files(os.path.join(folder_paths.get_output_directory(), FOLDER)))
    return [*names, *(name + FROM_OUTPUT for name in saved)]


def _files(folder: str) -> list[str]:
    found = []
    for path, _, names in os.walk(folder):
        found += [os.path.relpath(os.path.join(path, name), folder) for name in names if name.endswith(SUFFIX)]
    return sorted(name.replace(os.sep, "/") for name in found)


def card_path(name: str) -> str:
    """Path of a card in ComfyUI's input or output folder. Raises ValueError for names that lead elsewhere."""
    path = ""
    with contextlib.suppress(ValueError):  # newer cores refuse such names themselves, without a way out
        path = os.path.abspath(folder_paths.get_annotated_filepath(name))
    folders = (folder_paths.get_input_directory(), folder_paths.get_output_directory())
    if "\0" in name or not any(within(path, folder) for folder in folders):
        raise ValueError(f"{name!r} is not in ComfyUI's input or output folder. Put the reference card there.")
    return path


class ColorizeSaveReference(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeSaveReference",
            display_name="Save Reference",
            category=CATEGORY + "/reference",
            description="Keeps an encoded reference, with its background, figures, strengths and edits, as one file: a "
            "reference card. Load Reference uses it again without any encoder, for a whole shot or through the API.",
            search_aliases=["reference card", "export reference", "save tokens", "cache reference"],
            is_output_node=True,
            inputs=[
                ReferenceSocket.Input("reference", tooltip="From Encode Reference or any node after it."),
                io.String.Input(
                    "filename_prefix",
                    default="reference",
                    tooltip="Begin of the file name, in the folder output/references; a number is added. It may name "
                    "subfolders, and dates as %year%.",
                ),
                io.String.Input(
                    "tags",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Words to keep with the reference, with commas between them, behind those it has.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture that was encoded: its colours are kept as the palette that Palette from "
                    "Reference gives.",
                ),
                ReferenceEncoderSocket.Input(
                    "encoder",
                    optional=True,
                    tooltip="The encoder of the reference: its mark is kept, so that Load Reference can refuse the "
                    "card for another encoder.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="card", tooltip="Name of the written file, as Load Reference takes it."),
            ],
        )

    @classmethod
    def execute(
        cls,
        reference: Reference,
        filename_prefix: str = "reference",
        tags: str = "",
        image: torch.Tensor | None = None,
        encoder: LoadedReferenceEncoder | None = None,
    ) -> io.NodeOutput:
        palette: tuple[str, ...] = ()
        mark = None
        if image is not None:
            images.check_image(image)
            palette = tuple(palettes.to_text(palette_of_image(image)).splitlines())
        if encoder is not None:
            card.check_encoder(reference, encoder.encoder, "The reference", encoder.file_name)
            mark = card.encoder_mark(encoder.encoder)
        reference = card.annotated(reference, tags, palette, mark)
        folder, name, counter, subfolder = output_place(filename_prefix, "reference", FOLDER)
        file_name = f"{name}_{counter:05}_{SUFFIX}"
        card.save_card(reference, os.path.join(folder, file_name))
        written = f"{subfolder}/{file_name}".replace(os.sep, "/") + FROM_OUTPUT
        saved = {"filename": file_name, "subfolder": subfolder, "type": "output"}
        shown = ui.PreviewText(f"{written}\n{card.describe(reference)}").as_dict()
        return io.NodeOutput(written, ui={"references": [saved], **shown})


class ColorizeLoadReference(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeLoadReference",
            display_name="Load Reference",
            category=CATEGORY + "/reference",
            description="Uses a reference card of Save Reference in place of Load Reference Encoder and Encode "
            "Reference: no encoder is loaded.",
            search_aliases=["reference card", "import reference", "load tokens", "cached reference"],
            inputs=[
                io.Combo.Input(
                    "card_name",
                    options=card_files(),
                    tooltip="A card in output/references, where Save Reference writes them, or in the input folder.",
                ),
                ColorizerSocket.Input(
                    "colorizer",
                    optional=True,
                    tooltip="From Load ColorizeDiffusion Checkpoint: the card is refused here when its tokens do not "
                    "fit that model.",
                ),
                ReferenceEncoderSocket.Input(
                    "encoder",
                    optional=True,
                    tooltip="Only to check: the card is refused when another encoder made it. Leave it open to save "
                    "memory.",
                ),
                TaggerSocket.Input(
                    "tagger",
                    optional=True,
                    tooltip="Only to check, for cards of XL models: the card is refused when another tagger made it.",
                ),
            ],
            outputs=[
                ReferenceSocket.Output(
                    display_name="reference", tooltip="The reference as it was saved. Goes to Apply Reference."
                ),
                io.String.Output(
                    display_name="text", tooltip="What the card holds: sizes, background, edits, tags, palette."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, card_name: str) -> bool | str:
        # Naming the input switches off the check against the list, which is older than what a graph has just saved.
        if not folder_paths.exists_annotated_filepath(card_name):
            return f"There is no reference card {card_name!r}. Save one with Save Reference, or refresh the list (R)."
        return True

    @classmethod
    def fingerprint_inputs(cls, card_name: str, **kwargs: Any) -> str:
        with open(card_path(card_name), "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()

    @classmethod
    def execute(
        cls,
        card_name: str,
        colorizer: Colorizer | None = None,
        encoder: LoadedReferenceEncoder | None = None,
        tagger: LoadedTagger | None = None,
    ) -> io.NodeOutput:
        reference = card.load_card(card_path(card_name))
        if colorizer is not None:
            card.check_family(reference, colorizer.family, f"The reference card {card_name!r}", colorizer.file_name)
        if tagger is not None:
            card.check_tagger(reference, tagger.reader(), f"The reference card {card_name!r}", tagger.file_name)
        if encoder is not None:
            card.check_encoder(reference, encoder.encoder, f"The reference card {card_name!r}", encoder.file_name)
            if reference.encoder_mark is None:
                logging.warning(
                    "The reference card %r does not say which encoder made it; only sizes were compared. Save it with "
                    "encoder connected to Save Reference.",
                    card_name,
                )
        return io.NodeOutput(reference, card.describe(reference))
