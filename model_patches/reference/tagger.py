"""WD taggers as managed models: Swin V2 in torch, every published .onnx tagger through onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch

from ...colorize.families import CheckpointError
from ...colorize.pictures import images
from ...colorize.pictures.ranges import model_to_unit
from ...colorize.reference.geometry_tags import geometry_features, geometry_tags
from ...colorize.reference.tag_lists import GENERAL, TagList
from ...colorize.reference.wd_tagger import IMAGE_SIZE, WDTagger, prepare, to_network, to_onnx
from ..checkpoint.files import add_model_folder, check_finite, read_weights
from ..checkpoint.managed import managed
from ..checkpoint.onnx_session import OnnxNetwork

FOLDER = "colorize_taggers"  # ComfyUI's folder key; the files lie in models/colorize_taggers
OTHER_FOLDER = "wd14_tagger"  # that of ComfyUI-WD14-Tagger, when extra_model_paths.yaml names it
EXTENSIONS = {".safetensors", ".sft", ".pth", ".pt", ".bin", ".onnx"}
PAGE = "https://huggingface.co/SmilingWolf/wd-v1-4-swinv2-tagger-v2"
LIST_METADATA = "colorize.selected_tags"  # the text of selected_tags.csv, in files that carry it themselves
CHUNK = 8  # pictures computed together


def tagger_files() -> list[str]:
    """Names of the files a tagger can be loaded from."""
    add_model_folder(FOLDER, EXTENSIONS)
    for folder in folder_paths.folder_names_and_paths.get(OTHER_FOLDER, ([],))[0]:
        folder_paths.add_model_folder_path(FOLDER, folder)
    return folder_paths.get_filename_list(FOLDER)


def tagger_path(name: str) -> str:
    """Full path of a file of `tagger_files`. Raises CheckpointError, naming folder and address."""
    tagger_files()
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        raise CheckpointError(
            f"The tagger {name!r} is not in models/{FOLDER}. Put model.safetensors (or .onnx) and selected_tags.csv of "
            f"{PAGE} there, under names of your choice, and refresh (R)."
        )
    return path


@dataclass(frozen=True, eq=False)
class TagFeatures:
    """What the SDXL models of the family read of a tagger."""

    tokens: torch.Tensor
    """(B, N, D): a token per patch after the last norm, 14 x 14 of width 1024; float32 on the CPU."""
    preparation: str
    """How the picture was brought to the tagger; the SDXL models were trained with "xl"."""
    file_name: str


@dataclass(frozen=True, eq=False)
class LoadedTagger:
    """A tagger with its list of tags, and the patcher that owns its memory; no patcher for .onnx files."""

    network: WDTagger | OnnxNetwork
    patcher: comfy.model_patcher.ModelPatcher | None = field(repr=False)
    tags: TagList | None
    """None for a .safetensors file without its list: the patch features, which XL models read, need none."""
    file_name: str
    image_size: int = IMAGE_SIZE
    """Side in pixels of the square it reads."""

    @property
    def provider(self) -> str:
        """What computes, for people."""
        if self.patcher is not None:
            return f"torch, {self.patcher.load_device}"
        return f"onnxruntime, {getattr(self.network, 'provider', '')}"

    @property
    def note(self) -> str:
        """What is wrong with the set-up, or ""."""
        return getattr(self.network, "note", "")

    def answer(
        self, image: torch.Tensor, mask: torch.Tensor | None = None, preparation: str = "author"
    ) -> tuple[torch.Tensor, TagFeatures | None]:
        """Comfy pictures (B, H, W, C), transparent on white -> (probabilities (B, tags), features).

        float32 on the CPU. .onnx files have no features. preparation: see colorize.reference.wd_tagger.prepare.
        """
        images.check_image(image, "image")
        probabilities, tokens = self._answer(images.on_white(*images.rgb_and_alpha(image, mask)), preparation)
        return probabilities, TagFeatures(torch.cat(tokens), preparation, self.file_name) if tokens else None

    def features(self, picture: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] -> (B, P, W): a token per patch as XL models read them, float32 on the CPU.

        Raises ValueError for .onnx files, which answer tags only.
        """
        self.reader()
        _, tokens = self._answer(model_to_unit(picture.float()), "xl")
        return torch.cat(tokens)

    def features_with_geometry(self, tokens: torch.Tensor, sketch: torch.Tensor, strength: float) -> torch.Tensor:
        """Features (B, P, W) of references, what they say of pose, hands and framing moved to the sketches'.

        sketch: (B or 1, 3, H, W) in [-1, 1], dark lines on white. strength: 0 (as they are) .. 1.
        """
        tags = self.tag_list()
        places = geometry_tags(tags.names, [category == GENERAL for category in tags.categories])
        if not places:
            raise ValueError(
                f"The tag list of {self.file_name!r} has no tag of pose, hands, expression or framing. Put the "
                f"selected_tags.csv of the same model ({PAGE}) beside it, or leave sketch unconnected."
            )
        weight = self.reader().model.head.fc.weight.detach().cpu()
        return geometry_features(tokens, self.features(sketch), weight, places, strength)

    def reader(self) -> WDTagger:
        """The network that has patch features; raises ValueError for .onnx files, which have none."""
        if isinstance(self.network, OnnxNetwork):
            raise ValueError(
                f"The tagger {self.file_name!r} answers tags only; XL models read its patch features. Choose the torch "
                f"file (model.safetensors) of {PAGE} in Load Tagger."
            )
        return self.network

    def tag_list(self) -> TagList:
        """The tags; raises CheckpointError for a tagger without its list of tags."""
        if self.tags is None:
            raise CheckpointError(missing_list(self.file_name))
        return self.tags

    def _answer(self, colours: torch.Tensor, preparation: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Colours (B, 3, H, W) in 0..1 -> (probabilities (B, tags), chunks of tokens (b, P, W); none of .onnx)."""
        colours = colours.cpu()
        if self.patcher is not None:
            comfy.model_management.load_models_gpu([self.patcher], memory_required=self._working_memory(len(colours)))
        progress = comfy.utils.ProgressBar(len(colours))
        probabilities, tokens = [], []
        with torch.no_grad():
            for chunk in colours.split(CHUNK):
                pixels = prepare(chunk, self.image_size, preparation)
                if self.patcher is None:
                    probabilities.append(self.network(to_onnx(pixels)))
                else:
                    found = self.network(to_network(pixels).to(self.patcher.load_device))
                    probabilities.append(found[0].float().cpu())
                    tokens.append(found[1].float().cpu())
                progress.update(len(chunk))
        return torch.cat(probabilities), tokens

    def _working_memory(self, count: int) -> int:
        # The first level is the largest: 112 x 112 tokens of width 128, about 16 such tensors at once, in float32.
        return 4 * 16 * min(CHUNK, count) * (self.image_size // 4) ** 2 * 128


def load_tagger(path: str, provider: str = "auto") -> LoadedTagger:
    """Read a tagger and its tag list. Raises CheckpointError, or RuntimeError without onnxruntime or timm.

    The list is NAME.csv beside NAME.safetensors, else selected_tags.csv in the same folder, else the file's metadata.
    A .safetensors file does without: XL models read its patch features only.
    """
    name = os.path.basename(path)
    if name.lower().endswith(".onnx"):
        onnx = OnnxNetwork(path, provider)
        if len(onnx.shape) != 4 or isinstance(onnx.shape[3], int) and onnx.shape[3] != 3:
            raise CheckpointError(
                f"The file {name!r} reads {onnx.shape}, not pictures (count, height, width, 3) as WD taggers do. "
                f"Use model.onnx of {PAGE} or of another WD tagger."
            )
        size = onnx.shape[1] if isinstance(onnx.shape[1], int) else IMAGE_SIZE
        tags = read_tag_list(path, {})
        if tags is None:
            raise CheckpointError(missing_list(name))
        return LoadedTagger(onnx, None, tags, name, size)
    state_dict, metadata = read_weights(path)
    try:
        network = WDTagger.from_state_dict(state_dict, metadata)
    except ImportError as error:
        raise RuntimeError(
            f"The tagger needs timm, which cannot be imported ({error}). Install it into ComfyUI's Python: pip install "
            "timm"
        ) from error
    except ValueError as error:
        raise CheckpointError(
            f"The file {name!r} cannot be used as tagger: {error} Use model.safetensors of {PAGE} or of the Swin V2 "
            "tagger v3; of the other WD taggers use model.onnx."
        ) from error
    check_finite(network.state_dict(), name)
    tags = read_tag_list(path, metadata)
    if tags is not None and len(tags) != network.classes:
        raise CheckpointError(
            f"The tagger {name!r} answers {network.classes} tags, its list has {len(tags)}. Put the selected_tags.csv "
            f"of the same model beside it, as {os.path.splitext(name)[0]}.csv."
        )
    return LoadedTagger(network, managed(network), tags, name, network.image_size)


def read_tag_list(path: str, metadata: Mapping[str, str]) -> TagList | None:
    """The tag list that belongs to a tagger's file, or None; see `load_tagger`. CheckpointError for a broken one."""
    stem = os.path.splitext(os.path.basename(path))[0]
    own, shared = (os.path.join(os.path.dirname(path), name) for name in (f"{stem}.csv", "selected_tags.csv"))
    candidates = [own, shared] if LIST_METADATA not in metadata else [own]
    for candidate in candidates:
        if os.path.isfile(candidate):
            with open(candidate, encoding="utf-8", errors="replace") as file:
                return _parsed(file.read(), f"The file {os.path.basename(candidate)!r}")
    if LIST_METADATA in metadata:
        return _parsed(metadata[LIST_METADATA], f"The tag list inside {os.path.basename(path)!r}")
    return None


def missing_list(name: str) -> str:
    """What to say where the tag list of a tagger's file is needed and not there."""
    return (
        f"The tag list of {name!r} is missing; XL models do without, tags and geometry_strength do not. Download "
        f"selected_tags.csv of the same model (for example from {PAGE}) and put it beside the file as "
        f"{os.path.splitext(name)[0]}.csv."
    )


def _parsed(text: str, source: str) -> TagList:
    try:
        return TagList.parse(text, source)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
