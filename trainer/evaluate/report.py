"""Numbers of a protocol with their 95 % intervals, pair-by-pair comparisons of settings, and both as a table."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trainer.metrics.frechet import frechet_distance, frechet_interval
from trainer.metrics.intervals import interval, joint_interval
from trainer.metrics.regions import BACKGROUND
from trainer.world import REGION_NAMES

from .parts import Numbers, arrays
from .protocols import Protocol
from .sample import Setting

Scores = dict[str, np.ndarray]
"""One number per pair (P,) of everything that two runs are compared in."""

INTERVALS = ("all", "pairs", "none")
"""pairs: of numbers that every pair has, not of distances between sets, whose interval costs a hundred distances."""
PLAIN = ("mode", "pairs", "guidance", "sketch_guidance", "noise_level", "sampler", "steps")
"""What of a run in a report is no measurement."""
FEWEST_PAIRS = 5  # with fewer measured pairs a region has no row of its own
SETS = ("all_regions", "shown_regions", "shown_figure", "shown_background")
TITLES = {"shown_regions": "shown by reference", "shown_figure": "  its figure", "shown_background": "  its background"}


@dataclass(frozen=True)
class Against:
    """Another method, measured on the same pairs (a model: from the same noise)."""

    name: str
    values: Mapping[Setting, Numbers]
    model: bool
    """Whether it has the same settings; else its one row is compared with every run."""


def report(
    protocol: Protocol, values: Mapping[Setting, Numbers], others: Sequence[Against] = (), intervals: str = "all"
) -> dict:
    """{"protocol", "runs": one per setting, "comparisons": each further setting against the first of its guidance}.

    The runs of other methods follow, and every run is compared with theirs. intervals: one of INTERVALS.
    """
    of_regions = protocol.name == "regions"
    scores = scores_of_regions if of_regions else scores_of_means
    runs: list[dict] = []
    comparisons: list[dict] = []
    first: dict[float | None, tuple[str, Scores]] = {}

    def add(setting: Setting, title: str, measured: Numbers) -> None:
        numbers = summary_of_regions(measured, intervals) if of_regions else summary_of_means(measured, intervals)
        runs.append({"mode": title, **described(setting), **numbers})

    def compare(setting: Setting, against: str, ours: Scores, theirs: Scores) -> None:
        differences = {key: difference(ours[key], theirs[key], intervals) for key in ours if key in theirs}
        one = {"mode": setting.title, "against": against, "guidance": setting.guidance, "differences": differences}
        comparisons.append(one)

    for setting, measured in values.items():
        add(setting, setting.title, measured)
        against, base = first.setdefault(setting.guidance, (setting.title, scores(measured)))
        if setting.title != against:
            compare(setting, against, scores(measured), base)
    for other in others:
        for setting, measured in other.values.items():
            title = f"{setting.title} of {other.name}" if other.model else other.name
            add(setting, title, measured)
            for own in (setting,) if other.model else values:
                compare(own, title, scores(values[own]), scores(measured))
    return {"protocol": protocol.name, "runs": runs, "comparisons": comparisons}


def described(setting: Setting) -> dict:
    """The numbers of a setting, for scripts; empty for pictures of another method."""
    how = setting.how
    if how is None:
        return {"guidance": None}
    return {name: getattr(how, name) for name in ("guidance", "sketch_guidance", "noise_level", "sampler", "steps")}


def difference(ours: np.ndarray, theirs: np.ndarray, intervals: str = "all") -> dict:
    """Mean of ours - theirs over the pairs (P,) that have both, with its interval; negative: ours is smaller."""
    both = np.isfinite(ours) & np.isfinite(theirs)
    found: dict = {"difference": None, "pairs": int(both.sum())}
    if both.any():
        found["difference"] = float(np.mean(ours[both] - theirs[both]))
        found |= _bounds(intervals, "difference", lambda: joint_interval(ours[both], theirs[both], _mean_difference))
    return found


def _mean_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.mean(ours - theirs))


def _ratio_of_medians(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.nanmedian(ours) / np.nanmedian(theirs))


def _ratio_of_means(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(ours.mean() / max(theirs.mean(), 1e-6))


def _bounds(intervals: str, name: str, compute: Callable[[], tuple[float, float]]) -> dict:
    """{"name_95": [low, high]}, or nothing where no intervals are asked for."""
    return {} if intervals == "none" else {f"{name}_95": list(compute())}


# -- regions -----------------------------------------------------------------------------------------------------------


def _sets(values: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Errors with and without reference (P, regions of the set) of every set of SETS; None: not run without."""
    shown, count = values["shown"], values["errors"].shape[1]
    background = [r for r, name in enumerate(REGION_NAMES[:count]) if name in BACKGROUND]
    figure = [r for r in range(count) if r not in background]

    def parts(errors: np.ndarray) -> list[np.ndarray]:
        known = np.where(shown, errors, np.nan)
        return [errors, known, known[:, figure], known[:, background]]

    blind = [None] * len(SETS) if "errors_without" not in values else parts(values["errors_without"])
    return dict(zip(SETS, zip(parts(values["errors"]), blind), strict=True))


def _block(ours: np.ndarray, blind: np.ndarray | None, intervals: str) -> dict:
    block = {"error": float(np.nanmedian(ours)), **_bounds(intervals, "error", lambda: interval(ours))}
    if blind is not None:
        block["error_without_reference"] = float(np.nanmedian(blind))
        block["ratio"] = _ratio_of_medians(ours, blind)
        block |= _bounds(intervals, "ratio", lambda: joint_interval(ours, blind, _ratio_of_medians))
    return block


def summary_of_regions(values: Numbers, intervals: str = "all") -> dict:
    """The numbers of docs/RESULTS.md as nested dictionaries; sets of regions without any measured pair are left out.

    An error is the median over pairs and regions; a ratio is that of the medians with and without reference, and is not
    there where nothing was measured without.
    """
    numbers = arrays(values)
    errors, without = numbers["errors"], numbers.get("errors_without")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)  # a draw may miss every pair of a rare region
        sets = {
            name: _block(*parts, intervals) for name, parts in _sets(numbers).items() if np.isfinite(parts[0]).any()
        }
        regions = {
            name: _block(errors[:, r], None if without is None else without[:, r], intervals)
            for r, name in enumerate(REGION_NAMES[: errors.shape[1]])
            if np.isfinite(errors[:, r]).sum() >= FEWEST_PAIRS
        }
    edges, blind = numbers["edge_f1"], numbers.get("edge_f1_without")
    summary = {"pairs": len(errors), **sets, "regions": regions, "edge_f1": float(edges.mean())}
    if blind is not None:
        summary["edge_f1_without_reference"] = float(blind.mean())
        summary["edge_f1_ratio"] = _ratio_of_means(edges, blind)
        summary |= _bounds(intervals, "edge_f1_ratio", lambda: joint_interval(edges, blind, _ratio_of_means))
    return summary


def scores_of_regions(values: Numbers) -> Scores:
    """One number per pair (P,): mean error over the shown regions of figure, background, both (NaN: none); edge F1."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        sets = _sets(arrays(values))
        scores = {name: np.nanmean(sets[name][0], axis=1) for name in SETS[1:]}
    return scores | {"edge_f1": arrays(values)["edge_f1"]}


# -- everything else: means --------------------------------------------------------------------------------------------


def summary_of_means(values: Numbers, intervals: str = "all") -> dict:
    """Mean and interval of every number per pair; distances between sets of pictures from their features."""
    numbers = scores_of_means(values)
    some = next(iter(values.values()))
    summary: dict = {"pairs": len(some) if isinstance(some, torch.Tensor) else some.count()}
    for name, value in values.items():
        if name.endswith(":result"):
            distance = name.removesuffix(":result")
            truth = values[f"{distance}:truth"]
            summary[distance] = frechet_distance(value, truth)
            if intervals == "all":
                summary[f"{distance}_95"] = list(frechet_interval(value, truth))
        elif name in numbers:
            own = numbers[name]
            summary[name] = float(own.mean())
            summary |= _bounds(intervals, name, functools.partial(interval, own, np.mean))
    return summary


def scores_of_means(values: Numbers) -> Scores:
    return {
        name: value.numpy() for name, value in values.items() if isinstance(value, torch.Tensor) and value.ndim == 1
    }


# -- tables ------------------------------------------------------------------------------------------------------------


def table(found: Mapping) -> str:
    """What `report` found as text: a table per run of the regions, a row per run of everything else."""
    lines = [f"{found['protocol']}, {found['runs'][0]['pairs']} pairs"]
    if found["protocol"] == "regions":
        lines += [line for one in found["runs"] for line in _table_of_regions(one)]
    else:
        names = [name for one in found["runs"] for name in one if name not in PLAIN and not name.endswith("_95")]
        names = list(dict.fromkeys(names))
        width = max(16, *(len(one["mode"]) for one in found["runs"]))
        lines.append(" ".join([f"{'mode':{width}} guidance", *(f"{name:>28}" for name in names)]))
        for one in found["runs"]:
            cells = [f"{_cell(one, name):>28}" for name in names]
            lines.append(" ".join([f"{one['mode']:{width}} {_scale(one['guidance']):>8}", *cells]))
    for one in found["comparisons"]:
        lines.append(f"{one['mode']} - {one['against']}, guidance {_scale(one['guidance'])}, same pairs:")
        for name, row in one["differences"].items():
            lines.append(f"  {name:22} {_cell(row, 'difference', '+') if row['pairs'] else 'not measured'}")
    return "\n".join(lines)


def _scale(guidance: float | None) -> str:
    return "-" if guidance is None else f"{guidance:g}"


def _cell(numbers: Mapping, name: str, sign: str = "") -> str:
    """A number with its interval, where there is one."""
    if name not in numbers:
        return "-"
    text, bounds = f"{numbers[name]:{sign}.4g}", numbers.get(f"{name}_95")
    return text if bounds is None else f"{text} ({bounds[0]:{sign}.4g} to {bounds[1]:{sign}.4g})"


def _span(numbers: Mapping, name: str, digits: int) -> str:
    low_high = numbers.get(f"{name}_95")
    return "" if low_high is None else "..".join(f"{bound:.{digits}f}" for bound in low_high)


def _table_of_regions(summary: Mapping) -> list[str]:
    lines = [f"mode {summary['mode']}, guidance {_scale(summary['guidance'])}"] if "mode" in summary else []
    lines.append(f"{'region':18} {'error':>7}  {'95 %':14} {'no ref.':>7} {'ratio':>6}  95 %")
    rows = {"all": summary["all_regions"]} if "all_regions" in summary else {}
    rows |= {title: summary[name] for name, title in TITLES.items() if name in summary} | summary["regions"]
    for name, one in rows.items():
        error = f"{one['error']:7.2f}  {_span(one, 'error', 2)}"
        ratio = ""
        if "ratio" in one:
            ratio = f"{one['error_without_reference']:7.2f} {one['ratio']:6.3f}  {_span(one, 'ratio', 3)}"
        lines.append(f"{name:18} {error:23} {ratio}".rstrip())
    edges = f"edge F1 {summary['edge_f1']:.3f}"
    if "edge_f1_ratio" in summary:
        bounds = _span(summary, "edge_f1_ratio", 3)
        edges += f", without reference {summary['edge_f1_without_reference']:.3f}, ratio {summary['edge_f1_ratio']:.3f}"
        edges += f" ({bounds})" if bounds else ""
    return [*lines, f"{edges}; {summary['pairs']} pairs"]
