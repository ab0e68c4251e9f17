"""ColorizeDiffusion for ComfyUI: colours an anime sketch the way a colour reference looks.

ComfyUI calls `comfy_entrypoint`; nothing is imported before that, so importing the package costs nothing.
The nodes are listed in `nodes/__init__.py`, in the order in which a graph uses them.
"""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> object:
    """The extension that ComfyUI asks for its nodes."""
    from .nodes import ColorizeDiffusionExtension

    return ColorizeDiffusionExtension()
