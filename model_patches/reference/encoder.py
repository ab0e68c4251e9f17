"""The reference encoder as a managed model: ComfyUI decides where it lies and when it makes room for others."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch

from ...colorize.counts import check_count
from ...colorize.families import CheckpointError
from ...colorize.pictures.figure_masks import without_background, without_figure
from ...colorize.reference.card import encoder_mark, tagger_mark
from ...colorize.reference.fitting import fitted
from ...colorize.reference.types import Reference
from ...colorize.reference.vision import ReferenceEncoder, preprocess
from ..checkpoint.files import check_finite, read_weights
from ..checkpoint.managed import managed
from .tagger import LoadedTagger

CHUNK = 8  # references encoded together; bounds the working memory of long batches
LARGEST_SHARE = 0.6  # of the graphics card that an encoder's float32 weights may take


@dataclass(frozen=True, eq=False)
class LoadedReferenceEncoder:
    """A vision tower with the patcher that owns its memory."""

    encoder: ReferenceEncoder
    patcher: comfy.model_patcher.ModelPatcher = field(repr=False)
    file_name: str

    def encode(
        self,
        image: torch.Tensor,
        fit: str = "stretch",
        figure_mask: torch.Tensor | None = None,
        background: torch.Tensor | None = None,
        mask_threshold: float = 0.5,
        cut_out: bool = False,
        tagger: LoadedTagger | None = None,
        sketch: torch.Tensor | None = None,
        geometry_strength: float = 0.0,
        second: LoadedReferenceEncoder | None = None,
    ) -> Reference:
        """Pictures (B, 3, H, W) in [-1, 1] -> REFERENCE with tokens (B, 1 + N, D), float32 on the CPU.

        figure_mask: (B or 1, h, w) in 0..1, 1 = figure. The pictures are encoded once more with everything white
        that is not below mask_threshold (released code): the background tokens.
        background: (B or 1, 3, h, w) in [-1, 1], separate background pictures, encoded instead of that; figure_mask,
        which belongs to the reference, then only serves cut_out. cut_out: the reference's own tokens come from its
        figure alone, on white (not in the papers). tagger: for XL models, whose references also hold its patch features
        of the same pictures. sketch: (B or 1, 3, H, W) in [-1, 1], dark lines on white: what the features say of pose,
        hands and framing moves to the sketch's by geometry_strength, 0..1 (reference.geometry_tags). second: in the
        place of a tagger, for XL models that were trained with two CLIP towers: its tokens of the same pictures, class
        token first. Raises ValueError when the counts do not agree, and for a tagger beside a second encoder.
        """
        pictures = [image]
        edits: tuple[str, ...] = ()
        if cut_out:
            pictures = [_cut_out(image, figure_mask, mask_threshold)]
            edits = (f"figure cut out at {mask_threshold:g}",)
        if background is not None:
            advice = "Connect one background, or one for each reference."
            check_count("background pictures", len(background), len(image), "references", advice)
            pictures.append(background)
        elif figure_mask is not None:
            pictures.append(without_figure(image, figure_mask, mask_threshold))
        features = _second_features(tagger, second, pictures, fit)
        own, other = self._parts(self._tokens(pictures, fit), len(image))
        own_tags, other_tags = (None, None) if features is None else self._parts(features, len(image))
        if tagger is not None and own_tags is not None and sketch is not None and geometry_strength > 0:
            check_count("sketches", len(sketch), len(image), "references", "Connect one, or one for each.")
            own_tags = tagger.features_with_geometry(own_tags, sketch, geometry_strength)
            edits += (f"geometry tags of the sketch at {geometry_strength:g}",)
        return Reference(
            tokens=own,
            image_size=self.encoder.image_size,
            fit=fit,
            background_tokens=None if other is None else other[:, 1:],
            background_is_picture=background is not None,
            background_threshold=mask_threshold,
            encoder_mark=encoder_mark(self.encoder),
            edits=edits,
            tagger_tokens=own_tags,
            tagger_mark=_second_mark(tagger, second),
            second_tower="tagger" if second is None else "clip",
            background_class_token=None if other is None else other[:, :1],
            background_tagger_tokens=other_tags,
        )

    @staticmethod
    def _parts(tokens: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Tokens of `count` references and, behind them, of one background or as many -> both, `count` rows each."""
        return tokens[:count], tokens[count:].expand(count, -1, -1) if len(tokens) > count else None

    def _tokens(self, pictures: list[torch.Tensor], fit: str) -> torch.Tensor:
        """Batches of pictures (B_i, 3, H_i, W_i) -> their tokens (sum B_i, 1 + N, D) one after the other.

        The encoder's square is the same for all sizes, so they run together.
        """
        device = self.patcher.load_device
        count = sum(map(len, pictures))
        comfy.model_management.load_models_gpu([self.patcher], memory_required=self._working_memory(min(CHUNK, count)))
        progress = comfy.utils.ProgressBar(count)
        tokens = []
        with torch.no_grad():
            squares = [
                preprocess(chunk.to(device).float(), self.encoder.image_size, fit)
                for batch in pictures
                for chunk in batch.split(CHUNK)
            ]
            for chunk in torch.cat(squares).split(CHUNK):
                encoded = self.encoder.tokens(chunk.to(self.encoder.visual.conv1.weight.dtype))
                tokens.append(encoded.float().to(comfy.model_management.intermediate_device()))
                progress.update(len(chunk))
        return torch.cat(tokens)

    def _working_memory(self, batch: int) -> int:
        return 4 * batch * self.encoder.working_values()  # in float32


def _second_features(
    tagger: LoadedTagger | None, second: LoadedReferenceEncoder | None, pictures: list[torch.Tensor], fit: str
) -> torch.Tensor | None:
    """What XL models read beside the encoder's tokens, (sum B_i, P, W) of all batches of pictures; None without it."""
    if tagger is not None and second is not None:
        raise ValueError(
            "tagger and second_encoder are both connected, and no model reads both. Disconnect second_encoder; it is "
            "for XL models that were trained without a tagger."
        )
    if second is not None:
        return second._tokens(pictures, fit)
    return None if tagger is None else torch.cat([tagger.features(fitted(batch, fit)) for batch in pictures])


def _second_mark(tagger: LoadedTagger | None, second: LoadedReferenceEncoder | None) -> torch.Tensor | None:
    if second is not None:
        return encoder_mark(second.encoder)
    return None if tagger is None else tagger_mark(tagger.reader())


def _cut_out(image: torch.Tensor, figure_mask: torch.Tensor | None, threshold: float) -> torch.Tensor:
    """The figures of pictures (B, 3, H, W) on white. ValueError when nobody says where they are."""
    if figure_mask is None:
        raise ValueError(
            "figure is set to cut out, but there is no figure_mask. Connect the mask of the figure (Segment "
            "Character makes one), or set figure to whole picture."
        )
    return without_background(image, figure_mask, threshold)


def load_encoder(path: str) -> LoadedReferenceEncoder:
    """Read a CLIP vision file (open_clip or Hugging Face layout). Raises CheckpointError.

    Computed in float32, as in the released application: it runs once per reference, and the tokens steer every step.
    See `precision` for small graphics cards.
    """
    from ...colorize.reference.encoder_file import load_reference_encoder
    from ...colorize.reference.vision import find_tower

    name = os.path.basename(path)
    state_dict, metadata = read_weights(path)
    try:
        dtype = precision(sum(value.numel() for value in find_tower(state_dict).values()))
        encoder = load_reference_encoder(state_dict, metadata, device="cpu", dtype=dtype)
    except ImportError as error:
        raise RuntimeError(
            f"The reference encoder needs open_clip, which cannot be imported ({error}). Install it into ComfyUI's "
            "Python: pip install open_clip_torch"
        ) from error
    except (ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"The file {name!r} cannot be used as reference encoder: {' '.join(str(error).split())} "
            "Official v1 models need OpenCLIP ViT-H/14 (laion2b_s32b_b79k), XL models OpenCLIP ViT-bigG/14 "
            "(laion2b_s39b_b160k), in models/clip_vision."
        ) from error
    check_finite(encoder.state_dict(), name)
    return LoadedReferenceEncoder(encoder, managed(encoder), name)


def precision(parameters: int) -> torch.dtype:
    """float32, or float16 where float32 weights would take most of the graphics card (bigG needs 7.4 GB)."""
    device = comfy.model_management.text_encoder_device()
    if device.type == "cpu" or 4 * parameters < LARGEST_SHARE * comfy.model_management.get_total_memory(device):
        return torch.float32
    return torch.float16 if comfy.model_management.should_use_fp16(device) else torch.float32
