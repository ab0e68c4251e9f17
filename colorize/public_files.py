"""Public addresses of the helper networks' files, for messages. Imports nothing, so the trainer can name them too."""

from __future__ import annotations

HUGGING_FACE = "https://huggingface.co/{}/resolve/main/{}"

LINE_EXTRACTORS = {
    "model.pth": ("SketchKeras", "tellurion/line_extractor"),
    "netG.pth": ("Anime2Sketch", "lllyasviel/Annotators"),
    "erika.pth": ("MangaLine", "lllyasviel/Annotators"),
    "sk_model.pth": ("lineart_sk", "lllyasviel/Annotators"),
    "sk_model2.pth": ("lineart_sk, coarse", "lllyasviel/Annotators"),
}
"""File -> (network, Hugging Face repository)."""

SEGMENTERS = (
    "isnetis.safetensors (pictures) and sketch-segment.safetensors (drawings): "
    "https://huggingface.co/tellurion/line_extractor; isnetis.onnx: https://huggingface.co/skytnt/anime-seg"
)


def line_extractor_addresses(file_name: str = "") -> str:
    """The address of one of the known files, or of all of them when the name is none of theirs."""
    known = LINE_EXTRACTORS.get(file_name)
    files = {file_name: known} if known else LINE_EXTRACTORS
    return "; ".join(
        f"{name} ({title}): {HUGGING_FACE.format(repository, name)}" for name, (title, repository) in files.items()
    )
