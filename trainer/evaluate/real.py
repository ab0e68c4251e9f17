"""`evaluate --set real`: a colouriser on drawings by people with a known answer (art/benchmark.py says which)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from colorize.reference.feature_vision import EfficientNetLite, fold
from trainer.art import benchmark, packages
from trainer.evaluate.parts import Numbers, arrays
from trainer.evaluate.protocols import Protocol
from trainer.evaluate.runs import Measured, Measurement
from trainer.evaluate.sample import Pairs
from trainer.metrics.edges import edge_f1
from trainer.metrics.entanglement import Values
from trainer.metrics.features import feature_similarity
from trainer.metrics.intervals import interval, joint_interval
from trainer.metrics.regions import region_errors
from trainer.metrics.similarity import ms_ssim, psnr
from trainer.models import checkpoint
from trainer.models.colorizer import WholeColorizer

MEANS = ("psnr", "ms_ssim", "feature_similarity", "edge_f1")
TITLES = {"psnr": "PSNR", "ms_ssim": "MS-SSIM", "feature_similarity": "features", "edge_f1": "edge F1"}


def prepared(folder: Path, fetched: Path) -> Path:
    """The folder of the benchmark, written now if it is not there whole; packages are fetched into `fetched`."""
    done = folder / "version"
    if not done.is_file() or done.read_text(encoding="utf-8") != str(benchmark.VERSION):
        packages.fetch(list(benchmark.NEEDS), fetched)
        benchmark.write_benchmark(folder, fetched)
        (folder / "ATTRIBUTION.md").write_text(packages.attribution(list(benchmark.NEEDS)), encoding="utf-8")
        done.write_text(str(benchmark.VERSION), encoding="utf-8")
    return folder


def features_of(colorizer: WholeColorizer, file: str) -> EfficientNetLite | None:
    """The network that judges: of a file in the published layout, else the one inside the reference encoder."""
    if file:
        network = EfficientNetLite()
        network.load_state_dict(fold(checkpoint.read_tensors(Path(file))[0]))
        return network.eval()
    return getattr(colorizer.reference_encoder, "features", None)


def protocol(name: str, judge: EfficientNetLite | None) -> Protocol:
    """What is measured on one set of the benchmark."""
    similarity = feature_similarity(judge) if judge is not None else None

    def errors(pairs: Pairs, result: torch.Tensor) -> torch.Tensor:
        return region_errors(result, pairs.truth, pairs.batch["regions"], benchmark.REGION_COUNT)

    def measured(pairs: Pairs, result: torch.Tensor) -> Values:
        values: Values = {
            "psnr": psnr(result, pairs.truth),
            "ms_ssim": ms_ssim(result, pairs.truth),
            "edge_f1": edge_f1(result, -pairs.sketches[:, :1]),
            "errors": errors(pairs, result),
        }
        if similarity is not None:
            values["feature_similarity"] = similarity(result, pairs.truth)
        return values

    def common(pairs: Pairs) -> Values:
        return {} if pairs.without is None else {"errors_without": errors(pairs, pairs.without)}

    return Protocol(name, ("color", "sketch", "reference", "regions"), measured, common, blind=1)


def measure_sets(
    folder: Path,
    settings: Measurement,
    judge: EfficientNetLite | None,
    measure: Callable[[Protocol, Measurement], Measured],
    keep: Callable[[str, np.ndarray], None],  # (name of a set, its sheet)
) -> dict[str, dict[str, dict]]:
    """{set: {setting and scale: summary}}."""
    found = {}
    for name in benchmark.SETS:
        data = folder / name
        count = min(settings.count, len(list((data / "color").glob("*.png"))))
        measured = measure(protocol(name, judge), replace(settings, data=str(data), count=count, size=0))
        keep(name, np.concatenate(measured.sheets))
        found[name] = {f"{s.title} at {s.guidance:g}": summary(values) for s, values in measured.values.items()}
    return found


def summary(values: Numbers) -> dict:
    """Means with 95 % intervals; the region error as the median over pairs and regions, and its ratio to that of the
    run without reference."""
    numbers = arrays(values)
    out: dict[str, Any] = {"pairs": len(numbers["psnr"])}
    for name in MEANS:
        if name in numbers:
            out[name] = float(numbers[name].mean())
            out[f"{name}_95"] = list(interval(numbers[name], np.mean))
    ours, blind = numbers["errors"], numbers["errors_without"]
    out["region_error"] = float(np.nanmedian(ours))
    out["region_error_95"] = list(interval(ours))
    out["region_error_without_reference"] = float(np.nanmedian(blind))
    out["ratio"] = out["region_error"] / out["region_error_without_reference"]
    out["ratio_95"] = list(joint_interval(ours, blind, lambda a, b: float(np.nanmedian(a) / np.nanmedian(b))))
    return out


def table(found: dict[str, dict[str, dict]]) -> str:
    """The numbers as text, a row per set and run."""

    def cell(numbers: dict, name: str, digits: int) -> str:
        if name not in numbers:
            return "-"
        low, high = numbers[f"{name}_95"]
        return f"{numbers[name]:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"

    rows = [["real benchmark", "pairs", *TITLES.values(), "region error", "of that without"]]
    for name, runs in found.items():
        for run, numbers in runs.items():
            cells = [cell(numbers, key, 1 if key == "psnr" else 3) for key in MEANS]
            error = cell(numbers, "region_error", 1)
            rows.append([f"{name}, {run}", str(numbers["pairs"]), *cells, error, cell(numbers, "ratio", 2)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths)) for row in rows)
