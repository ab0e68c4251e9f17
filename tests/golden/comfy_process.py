"""A process in which ComfyUI and the pack are loaded; other programs start it, nobody imports it.

    python comfy_process.py COMFY_FOLDER MODULE ARGUMENT...

calls `main(arguments)` of MODULE (`tests.golden.comfy_side`, `tests.bench.run`) inside the pack.

ComfyUI's folder goes on sys.path, the repository root does not (its `nodes/` would hide ComfyUI's `nodes`): the pack is
loaded under a package name from its `__init__.py`, as ComfyUI itself does it, and everything of ours is imported below.
"""

import importlib
import importlib.util
import sys
from pathlib import Path

PACK = "colorize_diffusion_pack"


def load_pack(root: Path) -> None:
    """Import the pack in `root` under the name PACK."""
    spec = importlib.util.spec_from_file_location(PACK, root / "__init__.py", submodule_search_locations=[str(root)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = module
    spec.loader.exec_module(module)


def main() -> None:
    comfy, module, *arguments = sys.argv[1:]
    sys.argv = sys.argv[:1]  # ComfyUI reads the command line
    sys.path[0] = comfy  # in place of this script's folder, whose modules must not be found by their short names
    from comfy.cli_args import args

    args.cpu = True  # float32 on the CPU: the same numbers on every machine
    args.use_pytorch_cross_attention = True
    load_pack(Path(__file__).resolve().parents[2])
    importlib.import_module(f"{PACK}.{module}").main(arguments)


if __name__ == "__main__":
    main()
