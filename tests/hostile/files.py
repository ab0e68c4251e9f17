"""Makes a folder of hostile files, the kinds that docs/HOSTILE_FILES.md lists. Nothing of it is shipped."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n"
DEEP = "[" * 100_000 + "]" * 100_000
RAN = "the-code-of-a-file-was-run"
"""Name of the file that the code in the pickles would leave in the working directory."""


class Evil:
    """A pickle that runs code when it is read."""

    def __reduce__(self):
        return exec, (f"open({RAN!r}, 'w')",)


def png(size: tuple[int, int] = (64, 64)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 90, 40)).save(buffer, "PNG")
    return buffer.getvalue()


def huge_png(side: int) -> bytes:
    """A one-bit PNG of side x side black pixels, in a few kilobytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    row = b"\0" * (1 + (side + 7) // 8)
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def pictures() -> dict[str, bytes]:
    """Pictures by name: none of them can be used."""
    return {
        "postscript.png": EPS,
        "empty.png": b"",
        "page.png": b"<html>login</html>",
        "half.png": png()[:80],
        "huge.png": huge_png(13000),
        "colossal.png": huge_png(20000),
        "lying.png": png()[:16] + struct.pack(">II", 2**31 - 1, 2**31 - 1) + png()[24:],
        "svg.png": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    }


def shard(file: Path, folder: str) -> None:
    """A zip shard with one good picture between members that lead outside, lie, explode or are encrypted."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{folder}/good.png", png())
        archive.writestr(f"{folder}/zeros.png", bytes(30 * 2**20))
        for name in (f"{folder}/../../../out.png", "/tmp/out.png", "C:\\out.png", f"{folder}/..\\..\\out.png"):
            info = zipfile.ZipInfo("x")
            info.filename = name
            archive.writestr(info, png())
        for name, size in (("lie", 2**40), ("lie64", 2**63 - 1)):
            archive.writestr(f"{folder}/{name}.png", png())
            archive.getinfo(f"{folder}/{name}.png").file_size = size
        archive.writestr(f"{folder}/locked.png", png())
        place = archive.getinfo(f"{folder}/locked.png").header_offset
    content = bytearray(file.read_bytes())
    content[place + 6] |= 1
    file.write_bytes(content)


def weights(folder: Path) -> list[str]:
    """Write weight files that cannot be used; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    unet, sketch = "model.diffusion_model.", "control_encoder."
    vision = {
        "visual.conv1.weight": torch.ones(64, 3, 14, 14),
        "visual.class_embedding": torch.ones(64),
        "visual.positional_embedding": torch.ones(17, 64),
        "visual.proj": torch.ones(64, 32),
        "visual.transformer.resblocks.0.mlp.c_fc.weight": torch.ones(256, 64),
    }
    words = {"token_embedding.weight": torch.ones(8, 64), "text_projection": torch.ones(64, 8)}
    tagger = {
        "patch_embed.proj.weight": torch.ones(8, 3, 4, 4),
        "head.fc.weight": torch.ones(2, 8),
        "layers.0.blocks.0.attn.logit_scale": torch.ones(1),
        "layers.0.blocks.0.mlp.fc1.weight": torch.ones(32, 8),
    }
    recovers = {f"{unet}x": torch.ones(1), "transformer.embedding": torch.ones(4, 8)}
    kinds = {
        "blocks.safetensors": vision | {"visual.transformer.resblocks.99999.ln_1.weight": torch.ones(1)},
        "ranks.safetensors": {key: torch.tensor(1.0) for key in vision},
        "empty-sides.safetensors": {key: torch.zeros(0, 64) for key in vision},
        "words.safetensors": words | {f"transformer.resblocks.{n}.x": torch.ones(1) for n in (0, 2, 77777)},
        "tagger.safetensors": tagger | {"layers.0.blocks.55555.x": torch.ones(1)},
        "layers.safetensors": recovers | {"transformer.layers.99999.0.weight": torch.ones(1)},
        "lines.safetensors": {f"block{n}.model.0.conv1.model.2.weight": torch.ones(4, 4, 3, 3) for n in range(10)}
        | {"block3.model.99999.conv1.model.2.weight": torch.ones(1)},
        "faces.safetensors": {
            "encoder_block.0.conv1.2.weight": torch.ones(4, 4, 3, 3),
            "encoder_block.99999.conv1.2.weight": torch.ones(4, 4, 3, 3),
            "bottom_block.1.attention.1.weight": torch.ones(4, 4),
            "input.0.weight": torch.ones(4, 3, 3, 3),
            "output.2.weight": torch.ones(3, 4, 3, 3),
        },
        "widths.safetensors": {
            f"{unet}input_blocks.0.0.weight": torch.ones(8, 4, 3, 3),
            f"{unet}middle_block.1.transformer_blocks.0.attn2.to_k.weight": torch.ones(100_000, 1),
            f"{sketch}model.0.weight": torch.ones(100_000, 1, 1, 1),
            f"{sketch}zero_layer.0.weight": torch.ones(8, 1),
            f"{sketch}zero_blocks.0.0.weight": torch.ones(100_000, 1),
        },
        "marker.safetensors": {
            f"{unet}input_blocks.0.0.weight": torch.ones(8, 4, 3, 3),
            f"{unet}middle_block.1.transformer_blocks.0.attn2.to_k.weight": torch.ones(8, 8),
            f"{sketch}model.0.weight": torch.ones(4, 3, 3, 3),
            f"{sketch}zero_layer.0.weight": torch.ones(8, 1),
            f"{sketch}zero_blocks.0.0.weight": torch.ones(8, 1),
            "colorize.num_head_channels": torch.tensor(float("nan")),
        },
    }
    for name, tensors in kinds.items():
        save_file(tensors, folder / name)
    numbers = {"colorize.head_width": "0", "colorize.window_size": "0", "colorize.image_size": "1000000"}
    save_file(vision, folder / "head-width.safetensors", numbers)
    save_file(tagger, folder / "window.safetensors", numbers)
    (folder / "header.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    (folder / "html.safetensors").write_bytes(b"<!doctype html>")
    (folder / "nothing.safetensors").write_bytes(b"")
    (folder / "deep.safetensors").write_bytes(struct.pack("<Q", len(DEEP)) + DEEP.encode())
    (folder / "evil.ckpt").write_bytes(pickle.dumps(Evil()))
    torch.save({"state_dict": {"a": Evil()}}, folder / "evil.pt")
    torch.save({"a": torch.ones(1).expand(40_000, 30_000)}, folder / "stride.pt")
    torch.save([1, 2], folder / "list.pt")
    torch.save({"a": torch.zeros(20_000_000)}, folder / "zip.pt")
    with (
        zipfile.ZipFile(folder / "zip.pt") as old,
        zipfile.ZipFile(folder / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    (folder / "zip.pt").unlink()
    return sorted(path.name for path in folder.iterdir())


def cards(folder: Path) -> list[str]:
    """Write reference cards that cannot be used; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"format": 1, "image_size": 224, "fit": "pad", "regions": [], "edits": [], "tags": [], "palette": []}
    facts |= {"background": {"is_picture": False, "threshold": 0.5}, "preprocessing": "x"}
    facts |= {"levels": dict.fromkeys(("high", "middle", "low", "bottom", "encoder", "decoder"), 1.0) | {"layers": []}}
    texts = {
        "deep": DEEP,
        "infinity": json.dumps(facts | {"image_size": float("inf")}),
        "strong": json.dumps(facts | {"levels": facts["levels"] | {"high": 1e308}}),
        "long": json.dumps(facts | {"levels": facts["levels"] | {"layers": [1] * 1_000_000}}),
        "escapes": json.dumps(facts | {"tags": ["\x1b[2J"]}),
        "number": '{"format": 1e400}',
    }
    for name, text in texts.items():
        save_file({"tokens": torch.ones(1, 17, 32)}, folder / f"{name}.safetensors", {"colorize.card": text})
    save_file(
        {"tokens": torch.ones(1, 17, 32).bool()}, folder / "bool.safetensors", {"colorize.card": json.dumps(facts)}
    )
    return sorted(path.name for path in folder.iterdir())
