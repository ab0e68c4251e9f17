"""The nodes, one file per step of a graph. This file is the list that ComfyUI asks for."""

from __future__ import annotations

import logging
import os

from comfy_api.v0_0_2 import ComfyExtension, io

from ..model_patches import core
from ..model_patches.inputs import extractors
from ..model_patches.model.registration import copies_remark, register
from . import example_pictures
from .animediffusion import (
    ColorizeAnimeDiffusionConditioning,
    ColorizeAnimeDiffusionSampler,
    ColorizeLoadAnimeDiffusion,
)
from .apply import ColorizeApplyReference
from .blend import ColorizeBlendReferences
from .card import ColorizeLoadReference, ColorizeSaveReference
from .drawn_figure import ColorizeFigureFromDrawing
from .enhance import ColorizeAdaIN, ColorizeAttentionInjection
from .entanglement import ColorizeEntanglementMeter
from .extract import ColorizeExtractSketch, ColorizeLoadLineExtractor
from .flats import ColorizeFindRegions, ColorizeFlattenColors
from .guidance import ColorizeDualGuidance
from .layers import ColorizeSaveLayers
from .load import ColorizeLoadCheckpoint
from .load_frames import ColorizeLoadFrames
from .manipulate import (
    ColorizeCorrelationPreview,
    ColorizeLoadTextEncoder,
    ColorizeManipulateGlobal,
    ColorizeManipulateLocal,
)
from .palette import ColorizeLockToPalette, ColorizePaletteFromReference
from .place_views import ColorizePlaceViews
from .plugin import ColorizeApplyBackgroundPlugin
from .preflight import ColorizePreflight
from .reference import ColorizeEncodeReference, ColorizeLoadReferenceEncoder
from .regions import ColorizeAddRegion
from .restore import ColorizeRestoreSize
from .segment import ColorizeLoadSegmenter, ColorizeSegmentCharacter
from .shot_noise import ColorizeShotNoise
from .shots import ColorizeCarryColors, ColorizeFollowFigures, ColorizeMatchRegions
from .sketch import ColorizePrepareSketch
from .sketch_strength import ColorizeSketchStrength
from .strength import ColorizeReferenceStrength
from .style_background import ColorizeApplyStyleBackground
from .tags import ColorizeLoadTagger, ColorizeTagReference

PACK_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUNDLED_MODEL_KINDS = ("checkpoints", "clip_vision", "loras")


class ColorizeDiffusionExtension(ComfyExtension):
    async def on_load(self) -> None:
        """Tell ComfyUI's loaders about our families and folders and where the bundled small model lies, and put the
        pictures of the templates beside the user's own."""
        import folder_paths

        register()
        for remark in filter(None, (core.age_remark(), core.waiting_remark(), copies_remark())):
            logging.warning(remark)
        extractors.register_folder()
        for kind in BUNDLED_MODEL_KINDS:
            folder_paths.add_model_folder_path(kind, os.path.join(PACK_FOLDER, "models", kind))
        pictures = os.path.join(PACK_FOLDER, "workflows", "examples")
        example_pictures.offer(pictures, folder_paths.get_input_directory())

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            ColorizeLoadCheckpoint,
            ColorizeLoadLineExtractor,
            ColorizeExtractSketch,
            ColorizePrepareSketch,
            ColorizeSketchStrength,
            ColorizeLoadReferenceEncoder,
            ColorizeLoadSegmenter,
            ColorizeSegmentCharacter,
            ColorizeFigureFromDrawing,
            ColorizeLoadTagger,
            ColorizeTagReference,
            ColorizeEncodeReference,
            ColorizeApplyReference,  # before others that take a REFERENCE: a dropped link suggests the first few
            ColorizeLoadTextEncoder,
            ColorizeCorrelationPreview,
            ColorizeManipulateGlobal,
            ColorizeManipulateLocal,
            ColorizeSaveReference,
            ColorizeLoadReference,
            ColorizeAddRegion,
            ColorizeReferenceStrength,
            ColorizeBlendReferences,
            ColorizePreflight,
            ColorizeApplyBackgroundPlugin,
            ColorizeApplyStyleBackground,
            ColorizeAttentionInjection,
            ColorizeAdaIN,
            ColorizeDualGuidance,
            ColorizeRestoreSize,
            ColorizeFindRegions,
            ColorizeFlattenColors,
            ColorizePaletteFromReference,
            ColorizeLockToPalette,
            ColorizeLoadFrames,
            ColorizeMatchRegions,
            ColorizeCarryColors,
            ColorizeFollowFigures,
            ColorizeShotNoise,
            ColorizeSaveLayers,
            ColorizeEntanglementMeter,
            ColorizePlaceViews,
            ColorizeLoadAnimeDiffusion,
            ColorizeAnimeDiffusionConditioning,
            ColorizeAnimeDiffusionSampler,
        ]
