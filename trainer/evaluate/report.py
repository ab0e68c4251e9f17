"""Numbers of a protocol with their 95 % intervals, pair-by-pair comparisons of modes, and both as a table."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np

from trainer.metrics.entanglement import Values
from trainer.metrics.frechet import frechet_distance, frechet_interval
from trainer.metrics.intervals import interval, joint_interval
from trainer.metrics.regions import BACKGROUND
from trainer.world import REGION_NAMES

from .protocols import Protocol

Scores = dict[str, np.ndarray]
"""One number per pair (P,) of everything that two runs are compared in."""

FEWEST_PAIRS = 5  # with fewer measured pairs a region has no row of its own
SETS = ("all_regions", "shown_regions", "shown_figure", "shown_background")
TITLES = {"shown_regions": "shown by reference", "shown_figure": "  its figure", "shown_background": "  its background"}


def report(
    protocol: Protocol,
    values: Mapping[tuple[str, float], Values],
    theirs: Mapping[tuple[str, float], Values] | None = None,  # the same pairs and noise, of another model
    name: str = "",  # of that model
) -> dict:
    """{"protocol", "runs": one per mode and scale, "comparisons": each further mode against the first, same scale}.

    With another model its runs follow, and every run is compared with that model's.
    """
    summarise = summary_of_regions if protocol.name == "regions" else summary_of_means
    scores = scores_of_regions if protocol.name == "regions" else scores_of_means
    runs: list[dict] = []
    comparisons: list[dict] = []
    first: dict[float, tuple[str, Scores]] = {}

    def compare(mode: str, against: str, scale: float, ours: Scores, others: Scores) -> None:
        differences = {key: difference(ours[key], others[key]) for key in ours}
        comparisons.append({"mode": mode, "against": against, "guidance": scale, "differences": differences})

    for (mode, scale), measured in values.items():
        runs.append({"mode": mode, "guidance": scale, **summarise(measured)})
        against, base = first.setdefault(scale, (mode, scores(measured)))
        if mode != against:
            compare(mode, against, scale, scores(measured), base)
    for (mode, scale), measured in (theirs or {}).items():
        title = f"{mode} of {name}"
        runs.append({"mode": title, "guidance": scale, **summarise(measured)})
        compare(mode, title, scale, scores(values[mode, scale]), scores(measured))
    return {"protocol": protocol.name, "runs": runs, "comparisons": comparisons}


def difference(ours: np.ndarray, theirs: np.ndarray) -> dict:
    """Mean of ours - theirs over the pairs (P,) that have both, with its interval; negative: ours is smaller."""
    both = np.isfinite(ours) & np.isfinite(theirs)
    if not both.any():
        return {"difference": None, "difference_95": None, "pairs": 0}
    low, high = joint_interval(ours[both], theirs[both], lambda a, b: float(np.mean(a - b)))
    mean = float(np.mean(ours[both] - theirs[both]))
    return {"difference": mean, "difference_95": [low, high], "pairs": int(both.sum())}


# -- regions -----------------------------------------------------------------------------------------------------------


def _sets(values: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Errors with and without reference (P, regions of the set) of every set of SETS."""
    errors, without = values["errors"], values["errors_without"]
    ours, blind = (np.where(values["shown"], part, np.nan) for part in (errors, without))
    background = [r for r, name in enumerate(REGION_NAMES[: errors.shape[1]]) if name in BACKGROUND]
    figure = [r for r in range(errors.shape[1]) if r not in background]
    parts = (
        (errors, without),
        (ours, blind),
        (ours[:, figure], blind[:, figure]),
        (ours[:, background], blind[:, background]),
    )
    return dict(zip(SETS, parts, strict=True))


def _arrays(values: Values) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in values.items()}


def _block(ours: np.ndarray, blind: np.ndarray) -> dict:
    low, high = joint_interval(ours, blind, lambda a, b: float(np.nanmedian(a) / np.nanmedian(b)))
    return {
        "error": float(np.nanmedian(ours)),
        "error_95": list(interval(ours)),
        "error_without_reference": float(np.nanmedian(blind)),
        "ratio": float(np.nanmedian(ours) / np.nanmedian(blind)),
        "ratio_95": [low, high],
    }


def summary_of_regions(values: Values) -> dict:
    """The numbers of docs/RESULTS.md as nested dictionaries; sets of regions without any measured pair are left out.

    An error is the median over pairs and regions; a ratio is that of the medians with and without reference.
    """
    numbers = _arrays(values)
    errors, without = numbers["errors"], numbers["errors_without"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)  # a draw may miss every pair of a rare region
        sets = {name: _block(*parts) for name, parts in _sets(numbers).items() if np.isfinite(parts[0]).any()}
        regions = {
            name: _block(errors[:, r], without[:, r])
            for r, name in enumerate(REGION_NAMES[: errors.shape[1]])
            if np.isfinite(errors[:, r]).sum() >= FEWEST_PAIRS
        }
    edges, blind = numbers["edge_f1"], numbers["edge_f1_without"]
    ratio = joint_interval(edges, blind, lambda a, b: float(a.mean() / max(b.mean(), 1e-6)))
    return {
        "pairs": len(errors),
        **sets,
        "regions": regions,
        "edge_f1": float(edges.mean()),
        "edge_f1_without_reference": float(blind.mean()),
        "edge_f1_ratio": float(edges.mean() / max(blind.mean(), 1e-6)),
        "edge_f1_ratio_95": list(ratio),
    }


def scores_of_regions(values: Values) -> Scores:
    """One number per pair (P,): mean error over the shown regions of figure, background, both (NaN: none); edge F1."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        sets = _sets(_arrays(values))
        scores = {name: np.nanmean(sets[name][0], axis=1) for name in SETS[1:]}
    return scores | {"edge_f1": values["edge_f1"].numpy()}


# -- everything else: means --------------------------------------------------------------------------------------------


def summary_of_means(values: Values) -> dict:
    """Mean and interval of every number per pair; distances between sets of pictures from their features."""
    summary: dict = {"pairs": len(next(iter(values.values())))}
    for name, value in values.items():
        if name.endswith(":result"):
            distance = name.removesuffix(":result")
            truth = values[f"{distance}:truth"]
            summary[distance] = frechet_distance(value, truth)
            summary[f"{distance}_95"] = list(frechet_interval(value, truth))
        elif value.ndim == 1:
            summary[name] = float(value.mean())
            summary[f"{name}_95"] = list(interval(value.numpy(), np.mean))
    return summary


def scores_of_means(values: Values) -> Scores:
    return {name: value.numpy() for name, value in values.items() if value.ndim == 1}


# -- tables ------------------------------------------------------------------------------------------------------------


def table(found: Mapping) -> str:
    """What `report` found as text: a table per run of the regions, a row per run of everything else."""
    lines = [f"{found['protocol']}, {found['runs'][0]['pairs']} pairs"]
    if found["protocol"] == "regions":
        lines += [line for one in found["runs"] for line in _table_of_regions(one)]
    else:
        names = [name for name in found["runs"][0] if f"{name}_95" in found["runs"][0]]
        width = max(16, *(len(one["mode"]) for one in found["runs"]))
        lines.append(" ".join([f"{'mode':{width}} guidance", *(f"{name:>28}" for name in names)]))
        for one in found["runs"]:
            cells = [f"{_number(one[name], one[f'{name}_95']):>28}" for name in names]
            lines.append(" ".join([f"{one['mode']:{width}} {one['guidance']:8g}", *cells]))
    for one in found["comparisons"]:
        lines.append(f"{one['mode']} - {one['against']}, guidance {one['guidance']:g}, same pairs:")
        for name, row in one["differences"].items():
            text = _number(row["difference"], row["difference_95"], "+") if row["pairs"] else "not measured"
            lines.append(f"  {name:22} {text}")
    return "\n".join(lines)


def _number(value: float, bounds: list[float], sign: str = "") -> str:
    return f"{value:{sign}.4g} ({bounds[0]:{sign}.4g} to {bounds[1]:{sign}.4g})"


def _table_of_regions(summary: Mapping) -> list[str]:
    lines = [f"mode {summary['mode']}, guidance {summary['guidance']:g}"] if "mode" in summary else []
    lines.append(f"{'region':18} {'error':>7}  {'95 %':14} {'no ref.':>7} {'ratio':>6}  95 %")
    rows = {"all": summary["all_regions"]} if "all_regions" in summary else {}
    rows |= {title: summary[name] for name, title in TITLES.items() if name in summary} | summary["regions"]
    for name, one in rows.items():
        error = f"{one['error']:7.2f}  {one['error_95'][0]:.2f}..{one['error_95'][1]:.2f}"
        ratio = f"{one['ratio']:6.3f}  {one['ratio_95'][0]:.3f}..{one['ratio_95'][1]:.3f}"
        lines.append(f"{name:18} {error:23} {one['error_without_reference']:7.2f} {ratio}")
    low, high = summary["edge_f1_ratio_95"]
    lines.append(
        f"edge F1 {summary['edge_f1']:.3f}, without reference {summary['edge_f1_without_reference']:.3f}, "
        f"ratio {summary['edge_f1_ratio']:.3f} ({low:.3f}..{high:.3f}); {summary['pairs']} pairs"
    )
    return lines
