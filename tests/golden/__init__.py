"""Golden numbers: recorded inputs, weights and outputs of the published models, run through our public modules.

    python -m tests.golden DIR [--case NAME ...] [--side torch|comfy|both] [--verbose]

DIR holds `<case>.safetensors` files. `files.py` reads them, `registry.py` says which module answers which case, the
modules in `cases/` do it (one file per subject), `runner.py` compares and prints the table. Sides: `torch` = the
pure-torch modules the trainer uses, `comfy` = the same weights inside ComfyUI, in a process of its own.
"""
