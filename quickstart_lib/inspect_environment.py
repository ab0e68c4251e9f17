"""Run by the interpreter of an environment: prints, as one line of JSON, whether ComfyUI can start there and on what.

    python inspect_environment.py REQUIREMENTS_FILE [NAME ...]

Prints {"torch", "device", "problems": [text, ...], "missing": [package name, ...]}; always exits with 0.
"""

import importlib.metadata
import json
import re
import sys


def requirement_names(text: str) -> list:
    """The package names in a requirements file."""
    names = []
    for line in text.splitlines():
        found = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", line)
        if found:
            names.append(found.group(1))
    return names


def missing(names: list) -> list:
    """Those of `names` that are not installed."""
    absent = []
    for name in names:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            absent.append(name)
    return absent


def installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def look(names: list) -> dict:
    """Import torch and its companions and say what would keep ComfyUI from starting."""
    report = {"torch": installed("torch"), "device": "cpu", "problems": [], "missing": missing(names)}
    try:
        import torch
    except Exception as error:  # a broken installation raises many kinds of errors
        report["problems"].append("torch cannot be imported: %s" % error)
        return report
    for companion in ("torchvision", "torchaudio"):
        if companion in report["missing"] or companion not in names:
            continue
        try:
            __import__(companion)
        except Exception as error:
            report["problems"].append(
                "%s %s does not fit torch %s: %s"
                % (companion, installed(companion), installed("torch"), str(error).strip().splitlines()[0])
            )
    if torch.cuda.is_available():
        report["device"] = "cuda"
    elif getattr(torch.backends, "mps", None) and torch.backends.mps.is_available():
        report["device"] = "mps"
    elif getattr(torch, "xpu", None) and torch.xpu.is_available():
        report["device"] = "xpu"
    return report


if __name__ == "__main__":
    sys.path.pop(0)  # this folder's modules must not hide installed ones
    with open(sys.argv[1], encoding="utf-8") as file:
        wanted = requirement_names(file.read()) + sys.argv[2:]
    print(json.dumps(look(wanted)))
