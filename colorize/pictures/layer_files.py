"""Layered documents: Photoshop's .psd (by psd-tools, imported here alone) and OpenRaster .ora (a zip of PNGs)."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image, ImageCms

from .layers import Layer, composite

ENDINGS = (".psd", ".ora")
LARGEST_PSD = 30_000  # pixels of a side, the format's limit
ORA_BLENDS = {"normal": "svg:src-over", "multiply": "svg:multiply", "screen": "svg:screen"}
THUMBNAIL = 256  # pixels, OpenRaster's limit


def save_layers(layers: tuple[Layer, ...], path: str | Path, dpi: float = 300.0) -> None:
    """Write the layers, the lowest first, as .psd or .ora by the ending of `path`; sRGB, `dpi` pixels per inch.

    The merged picture in the file is `composite(layers)`. Raises ValueError for what the format cannot hold.
    """
    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"{path.name} ends in {path.suffix or 'nothing'}; layers are saved as {' or '.join(ENDINGS)}.")
    if not 1 <= dpi <= 10_000:
        raise ValueError(
            f"A resolution of {dpi} pixels per inch was asked for; give 1 to 10000, print uses 300 to 600."
        )
    part = path.with_name(path.name + ".part")
    try:
        (_save_psd if path.suffix.lower() == ".psd" else _save_ora)(layers, part, dpi)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def srgb_profile() -> bytes:
    """The ICC profile of sRGB."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _cropped(pixels: np.ndarray) -> tuple[np.ndarray, int, int]:
    """(the part that is not transparent, its left, its top); at least one pixel."""
    rows, columns = np.flatnonzero(pixels[..., 3].any(axis=1)), np.flatnonzero(pixels[..., 3].any(axis=0))
    if not rows.size:
        return pixels[:1, :1], 0, 0
    left, top = int(columns[0]), int(rows[0])
    return np.ascontiguousarray(pixels[top : rows[-1] + 1, left : columns[-1] + 1]), left, top


def _grouped(layers: tuple[Layer, ...]) -> list[tuple[str, list[Layer]]]:
    """Runs of layers with the same group; a layer without one is a run of its own."""
    runs: list[tuple[str, list[Layer]]] = []
    for layer in layers:
        if layer.group and runs and runs[-1][0] == layer.group:
            runs[-1][1].append(layer)
        else:
            runs.append((layer.group, [layer]))
    return runs


# -- .psd --------------------------------------------------------------------------------------------------------------


def _save_psd(layers: tuple[Layer, ...], path: Path, dpi: float) -> None:
    try:
        from psd_tools import PSDImage
        from psd_tools.constants import BlendMode, Resource
        from psd_tools.psd.image_resources import ImageResource, ResoulutionInfo
    except ImportError:
        raise ValueError(
            "Saving .psd needs the package psd-tools, which is not installed here: run `pip install psd-tools` in "
            "ComfyUI's environment, or save .ora, which needs nothing and opens in Krita and GIMP."
        ) from None
    height, width = layers[0].pixels.shape[:2]
    if max(height, width) > LARGEST_PSD:
        raise ValueError(
            f"The document is {width}x{height}; .psd holds {LARGEST_PSD} pixels a side. Save .ora instead."
        )
    document = PSDImage.frompil(Image.fromarray(composite(layers)))
    modes = {"normal": BlendMode.NORMAL, "multiply": BlendMode.MULTIPLY, "screen": BlendMode.SCREEN}
    for group, members in _grouped(layers):
        made = []
        for layer in members:
            pixels, left, top = _cropped(layer.pixels)
            image = Image.fromarray(pixels)
            made.append(
                document.create_pixel_layer(image, layer.name, top=top, left=left, blend_mode=modes[layer.blend])
            )
            made[-1].visible = layer.visible
        if group:
            document.create_group(made, group, open_folder=False)
    fixed = round(dpi * 65536)  # 16.16 fixed point, pixels per inch; sizes in inches
    resources = document.image_resources
    resolution = ResoulutionInfo(fixed, 1, 1, fixed, 1, 1)
    resources[Resource.RESOLUTION_INFO] = ImageResource(key=Resource.RESOLUTION_INFO, data=resolution.tobytes())
    resources[Resource.ICC_PROFILE] = ImageResource(key=Resource.ICC_PROFILE, data=srgb_profile())
    document.save(path)


# -- .ora --------------------------------------------------------------------------------------------------------------


def _save_ora(layers: tuple[Layer, ...], path: Path, dpi: float) -> None:
    """OpenRaster 0.0.6: mimetype first and uncompressed, stack.xml with the topmost layer first, PNGs."""
    height, width = layers[0].pixels.shape[:2]
    root = ElementTree.Element("image", w=str(width), h=str(height), xres=str(round(dpi)), yres=str(round(dpi)))
    root.set("version", "0.0.6")
    top = ElementTree.SubElement(root, "stack", name="root")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("mimetype", "image/openraster")
        number = 0
        for group, members in reversed(_grouped(layers)):
            parent = ElementTree.SubElement(top, "stack", name=group) if group else top
            for layer in reversed(members):
                pixels, left, above = _cropped(layer.pixels)
                source = f"data/layer{number:03d}.png"
                number += 1
                archive.writestr(source, _png(Image.fromarray(pixels), dpi))
                element = ElementTree.SubElement(
                    parent, "layer", name=layer.name, src=source, x=str(left), y=str(above)
                )
                element.set("composite-op", ORA_BLENDS[layer.blend])
                element.set("opacity", "1.0")
                element.set("visibility", "visible" if layer.visible else "hidden")
        merged = Image.fromarray(composite(layers))
        archive.writestr("mergedimage.png", _png(merged, dpi))
        merged.thumbnail((THUMBNAIL, THUMBNAIL))
        archive.writestr("Thumbnails/thumbnail.png", _png(merged, dpi))
        archive.writestr("stack.xml", b'<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root))


def _png(image: Image.Image, dpi: float) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=4, dpi=(dpi, dpi), icc_profile=srgb_profile())
    return buffer.getvalue()
