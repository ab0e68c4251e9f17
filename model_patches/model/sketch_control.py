"""The sketch encoder as a CONTROL_NET: the core Apply ControlNet node applies it, with strength and start/end percent.

The encoder depends on the sketch only, not on the step, so it runs once for a sketch and size; every later step and
every further sampler that shares the conditioning re-uses the maps. They are added after U-Net input blocks 0, 3, 6,
9 and 11 (XL: 0, 3, 6 and 8), each times the strength of its level and that of Apply ControlNet.
Strength 0 in the core node means no control at all; a blank sketch (black) is a different thing.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

import comfy.controlnet
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import torch

from ...colorize.counts import check_count
from ...colorize.pictures.images import PIXELS_PER_LATENT
from ...colorize.pictures.ranges import unit_to_model
from ...colorize.sketch import xl_encoder as xl_sketch_encoder
from ...colorize.sketch.encoder import SketchEncoder
from ...colorize.sketch.xl_encoder import XLSketchEncoder
from ...colorize.unet.config import HINT_BLOCKS
from ..features import taken
from . import sampled_part
from .advanced_apply import TakesMask
from .sampled_part import Part

LIGHT, PAPER_SHARE = 0.85, 0.6  # a hint with more than this share of pixels lighter than that is paper
LATENT_ADVICE = (
    "Use one sketch, or the LATENT of the same Prepare Sketch, which has as many pictures as there are sketches. "
    "Behind Rebatch Latents, rebatch the drawings alike (Rebatch Images before Prepare Sketch)."
)
CACHED_SIZES = 8  # sketches of an image-to-image, hires or area pass are kept side by side
CACHED_TILES = 64  # batches of tiles of a run
# Working memory of the encoder per input pixel and batch row, in values: 16 channels twice at full size, less below.
VALUES_PER_PIXEL = 64
# XL besides: about ten tensors of 1280 values for each token of the attention, of which there are 1/64 of the pixels
# on the first level and 3/8 of that on the others.
XL_VALUES_PER_PIXEL = VALUES_PER_PIXEL + 10 * 1280 * 11 // (8 * 64)

# By the number of maps, which tells the two layouts apart: the U-Net input block behind which each is added, and its
# level. v1: 1/8, 1/16, 1/32, 1/64 and again 1/64 of the picture; XL: 1/8, 1/16, 1/32 and again 1/32.
BLOCKS = {len(blocks): blocks for blocks in (HINT_BLOCKS, xl_sketch_encoder.HINT_BLOCKS)}
LEVELS = {5: ("high", "middle", "low", "bottom", "bottom"), 4: ("high", "middle", "low", "bottom")}


def entries_of(maps: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
    """The maps, shallow to deep, as ComfyUI hands input controls to the U-Net: one entry a block, deepest first."""
    blocks = BLOCKS[len(maps)]
    entries: list[torch.Tensor | None] = [None] * (blocks[-1] + 1)
    for block, values in zip(blocks, maps, strict=True):
        entries[block] = values
    return entries[::-1]


def of_pictures(maps: list[torch.Tensor], pictures: tuple[int, ...] | None) -> list[torch.Tensor]:
    """The maps of these pictures of a batch, in turn where there are fewer sketches; None: as they are."""
    return maps if pictures is None else [taken(values, pictures) for values in maps]


def check_is_sketch(hint: torch.Tensor) -> None:
    """Raise ValueError for a hint that is no batch (B, C, H, W) of pictures in 0..1, or a drawing on light paper.

    A drawing as people draw it would be read as one white blot and gives psychedelic colours. What Prepare Sketch gives
    is black for the most part, also where hair or clothes are filled with ink.
    """
    if hint.ndim != 4 or not hint.numel():
        raise ValueError(
            f"The picture at Apply ControlNet has the shape {tuple(hint.shape)}: a video in one piece, or nothing. "
            "Connect the sketch output of Prepare Sketch, a batch of pictures, to its image input."
        )
    light = (hint.float().mean(dim=1) > LIGHT).flatten(1).float().mean(dim=1)
    if bool((light > PAPER_SHARE).any()):
        raise ValueError(
            f"The picture at Apply ControlNet is {light.max().item():.0%} white: a drawing on paper. The sketch "
            "encoder reads white lines on black. Put Prepare Sketch between Load Image and Apply ControlNet: connect "
            "its sketch output to image, and its latent output to the sampler."
        )


class SketchControl(TakesMask, comfy.controlnet.ControlBase):
    """Adds the maps of a sketch encoder to the U-Net. Hints are BCHW in 0..1: white lines (1) on black (0)."""

    def __init__(
        self,
        encoder: SketchEncoder | XLSketchEncoder,
        patcher: comfy.model_patcher.ModelPatcher,
        compute_dtype: torch.dtype,
        map_strengths: tuple[float, ...] | None = None,
    ) -> None:
        """patcher: the ModelPatcher that owns `encoder`; compute_dtype: what the encoder's layers compute in.

        map_strengths: a factor for each map, first to last, besides the strength of Apply ControlNet; None: all 1.
        """
        super().__init__()
        self.encoder = encoder
        self.patcher = patcher
        self.compute_dtype = compute_dtype
        self.is_xl = isinstance(encoder, XLSketchEncoder)
        blocks = xl_sketch_encoder.HINT_BLOCKS if self.is_xl else HINT_BLOCKS
        self.map_strengths = map_strengths or (1.0,) * len(blocks)
        self.compression_ratio = PIXELS_PER_LATENT
        self.upscale_algorithm = "bicubic"  # for nodes that cut the hint themselves
        # (height, width) of the hint and the part of it -> its maps
        self._features: dict[tuple[int, int, tuple[int, ...] | None], list[torch.Tensor]] = {}
        self._tiles: list[tuple[torch.Tensor, list[torch.Tensor]]] = []  # hints that others cut, and their maps
        self._told: set[str] = set()

    @classmethod
    def from_state_dict(
        cls,
        state_dict: dict[str, torch.Tensor],
        prefix: str = "",
        load_device: torch.device | None = None,
        offload_device: torch.device | None = None,
    ) -> SketchControl:
        """Build the encoder found under `prefix` with ComfyUI's casting layers; devices as for a U-Net by default."""
        load_device = load_device or comfy.model_management.get_torch_device()
        offload_device = offload_device or comfy.model_management.unet_offload_device()
        parameters = comfy.utils.calculate_parameters(state_dict, prefix)
        weight_dtype = comfy.utils.weight_dtype(state_dict, prefix)
        dtype = comfy.model_management.unet_dtype(load_device, model_params=parameters, weight_dtype=weight_dtype)
        compute_dtype = comfy.model_management.unet_manual_cast(dtype, load_device) or dtype
        operations = comfy.ops.pick_operations(dtype, compute_dtype, load_device=load_device)
        kind = XLSketchEncoder if f"{prefix}proj_ins.0.weight" in state_dict else SketchEncoder
        encoder = kind.from_state_dict(
            state_dict, prefix, device=offload_device, dtype=dtype, operations=operations
        ).requires_grad_(False)
        patcher = comfy.model_patcher.CoreModelPatcher(encoder, load_device=load_device, offload_device=offload_device)
        return cls(encoder, patcher, compute_dtype)

    def set_cond_hint(self, cond_hint: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        check_is_sketch(cond_hint)
        self._features = {}
        return super().set_cond_hint(cond_hint, *args, **kwargs)

    def set_cond_hint_mask(self, mask: torch.Tensor) -> SketchControl:
        self._features = {}
        super().set_cond_hint_mask(mask)
        return self

    def get_control(
        self,
        x_noisy: torch.Tensor,
        t: torch.Tensor,
        cond: dict[str, Any],
        batched_number: int,
        transformer_options: dict[str, Any],
    ) -> Any:
        """Controls for one call of the U-Net: {"input": an entry a block, last first, ...}, merged with the chain's.

        x_noisy: (rows * batched_number, 4, h, w), the batch as often as there are conditions in this call.
        """
        previous = None
        if self.previous_controlnet is not None:
            previous = self.previous_controlnet.get_control(x_noisy, t, cond, batched_number, transformer_options)
        if self.timestep_range is not None and not self.timestep_range[1] <= t[0] <= self.timestep_range[0]:
            return previous

        features = self._features_of(x_noisy, sampled_part.of(cond, batched_number), batched_number)
        # Fresh tensors: the merge below scales them in place. One sketch broadcasts over all rows.
        maps = [feature * strength for feature, strength in zip(features, self.map_strengths, strict=True)]
        return self.control_merge({"input": entries_of(maps)}, previous, output_dtype=None)

    def _features_of(self, x: torch.Tensor, parts: tuple[Part, ...], conditions: int) -> list[torch.Tensor]:
        """The maps for the rows of one call, or with 1 row for all of them.

        x: (rows * conditions, 4, h, w). parts: what each condition samples; empty when nobody says it.
        """
        size, rows = tuple(x.shape[-2:]), len(x) // conditions
        pictures = parts[0].pictures if parts else None
        pixels = tuple(side * PIXELS_PER_LATENT for side in size)
        if self.cond_hint is not None and self.cond_hint.shape[-2:] == pixels:  # set by a node that samples tiles
            return self._in_rows(self._handed(self.cond_hint, x.device), len(x), 1)
        if all(part.area is None for part in parts):
            if parts and parts[0].size != size:
                self._tell(
                    "A node samples a part of the picture without telling the sketch which: the whole sketch is "
                    "squeezed into each part. Tiled Diffusion and ComfyUI's areas tell it."
                )
            maps = of_pictures(self.features(pixels[0], pixels[1], x.device), pictures)
            return self._in_rows(maps, rows, conditions)
        cut = []
        for part in parts:
            height, width = (side * PIXELS_PER_LATENT for side in part.whole)
            maps = of_pictures(self.features(height, width, x.device, part.area), pictures)
            maps = self._in_rows(maps, rows, 1)
            cut.append([values.expand(rows, -1, -1, -1) for values in maps])
        return [torch.cat(level) for level in zip(*cut, strict=True)]

    def _in_rows(self, maps: list[torch.Tensor], rows: int, conditions: int) -> list[torch.Tensor]:
        """Maps of sketches for `rows` pictures, as often as there are conditions; those of one stay as they are."""
        count = len(maps[0])
        check_count("sketches", count, rows, advice=LATENT_ADVICE, repeats=True)
        return maps if count == 1 else [values.repeat(rows // count * conditions, 1, 1, 1) for values in maps]

    def _handed(self, hint: torch.Tensor, device: torch.device) -> list[torch.Tensor]:
        """The maps of a hint that another node cropped, (rows, 3, H, W); the encoder runs once per hint."""
        if self.mask is not None:
            raise ValueError(
                "A node that samples tiles cuts the sketch, but not the mask of Apply Advanced ControlNet: the two do "
                "not go together. Remove the mask, or sample without tiles."
            )
        for known, maps in self._tiles:
            if known is hint or (known.shape == hint.shape and torch.equal(known, hint)):
                return [values.to(device) for values in maps]
        with torch.no_grad():
            maps = self.encoder(unit_to_model(hint.clamp(0, 1).to(device=device, dtype=self.compute_dtype)))
        self._tiles = [*self._tiles, (hint, maps)][-CACHED_TILES:]
        return maps

    def _tell(self, text: str) -> None:
        """Warn once for this control."""
        if text not in self._told:
            self._told.add(text)
            logging.warning(text)

    def features(
        self, height: int, width: int, device: torch.device, area: tuple[int, ...] | None = None
    ) -> list[torch.Tensor]:
        """The maps of the sketch at height x width pixels, on `device`; the encoder runs once per size and area.

        area: (h, w, y, x) in cells of the latent: the maps of this part of it.
        """
        key = (height, width, area)
        if key not in self._features:
            if len(self._features) >= CACHED_SIZES:
                self._features.pop(next(iter(self._features)))
            self._features[key] = self._encode(height, width, device, area)
        self._features[key] = [feature.to(device) for feature in self._features[key]]
        return self._features[key]

    def _encode(
        self, height: int, width: int, device: torch.device, area: tuple[int, ...] | None = None
    ) -> list[torch.Tensor]:
        hint = self.cond_hint_original
        if hint is None:
            raise RuntimeError("The sketch encoder was given no sketch: connect it through Apply ControlNet.")
        if hint.shape[1] != 3:
            hint = hint[:, :3] if hint.shape[1] > 3 else hint[:, :1].expand(-1, 3, -1, -1)
        if hint.shape[-2:] != (height, width):
            hint = comfy.utils.common_upscale(hint, width, height, "bicubic", "disabled").clamp(0, 1)
        self._check_polarity(hint)
        if area is not None:
            area = tuple(side * PIXELS_PER_LATENT for side in area)
            rows, columns, top, left = area
            hint = hint[..., top : top + rows, left : left + columns]
        with torch.no_grad():
            maps = self.encoder(unit_to_model(hint.to(device=device, dtype=self.compute_dtype)))
        return self.masked(maps, height, width, area)

    def _check_polarity(self, hint: torch.Tensor) -> None:
        mean = hint.float().mean().item()
        if mean > 0.5:
            self._tell(
                f"The sketch looks like dark lines on white paper (mean brightness {mean:.2f}); the sketch encoder "
                "reads white lines on black. Put Prepare Sketch between the picture and Apply ControlNet."
            )

    def cleanup(self) -> None:
        """After a run: let the maps leave the GPU but keep them, so the next sampler need not encode again."""
        keep = comfy.model_management.intermediate_device()
        self._features = {key: [map_.to(keep) for map_ in maps] for key, maps in self._features.items()}
        self._tiles, self._told = [], set()
        super().cleanup()

    def copy(self) -> SketchControl:
        c = SketchControl(self.encoder, self.patcher, self.compute_dtype, self.map_strengths)
        self.copy_to(c)
        c.mask = self.mask
        return c

    def with_level_strengths(
        self, high: float = 1.0, middle: float = 1.0, low: float = 1.0, bottom: float = 1.0
    ) -> SketchControl:
        """A copy whose maps are multiplied by the strength of their level, besides the strengths it has already.

        The encoder's maps are kept as they are, so a sketch that was encoded need not be encoded again.
        """
        levels = {"high": high, "middle": middle, "low": low, "bottom": bottom}
        c = self.copy()
        c.map_strengths = tuple(
            own * levels[level] for own, level in zip(self.map_strengths, LEVELS[len(self.map_strengths)], strict=True)
        )
        c._features = dict(self._features)
        return c

    def blank(self) -> SketchControl:
        """A copy that reads one empty sketch (black, -1 for the network) of the same size, with the same settings."""
        c = self.copy()
        if c.cond_hint_original is not None:
            c.cond_hint_original = torch.zeros_like(c.cond_hint_original[:1])
        return c

    def deepclone_multigpu(self, load_device: torch.device | None, autoregister: bool = False) -> SketchControl:
        """A copy with its own weights for another device."""
        c = self.copy()
        c.encoder = copy.deepcopy(self.encoder)
        c.patcher = comfy.model_patcher.ModelPatcher(
            c.encoder, load_device=load_device, offload_device=comfy.model_management.unet_offload_device()
        )
        if autoregister:
            self.multigpu_clones[load_device] = c
        return c

    def get_models(self) -> list:
        return [*super().get_models(), self.patcher]

    def inference_memory_requirements(self, dtype: torch.dtype | None) -> float:
        own = 0
        if self.cond_hint_original is not None:
            batch, _, height, width = self.cond_hint_original.shape
            values = XL_VALUES_PER_PIXEL if self.is_xl else VALUES_PER_PIXEL
            own = batch * height * width * values * comfy.model_management.dtype_size(self.compute_dtype)
        return own + super().inference_memory_requirements(dtype)
