"""`python -m trainer show RUN [RUN ...]`: one HTML page of a run, or of several side by side, that needs nothing else.

Curves of every loss term and of the speed (log.jsonl), the validation over the run and by noise level
(validation.jsonl), sample sheets, and the settings; of several runs those that differ first. Pictures and curves are in
the page itself. Paths of this computer are reduced to their last part, so a page can be given away.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import PATHS, ConfigError
from trainer.data.decode import PICTURE_ERRORS, open_picture, why
from trainer.json_file import JSON_ERRORS, read_object
from trainer.run.curves import COLOURS, Curve, chart, number

SHEETS = 8  # of a run at most: the first, the last, and evenly between
WIDEST = 1200  # pixels of a sheet in the page
SPEED = {
    "lr": "learning rate",
    "grad_norm": "norm of the gradient",
    "images_per_s": "images a second",
    "data_wait": "share of the time waiting for data",
    "utilisation": "share of the device's peak",
    "peak_gib": "peak memory, GiB",
}
"""Keys of log.jsonl that are no loss terms, and their titles; the others."""
NO_LOSS = {"step", "s_per_step", *SPEED}
NOISE = re.compile(r"validation_t(\d+)")
STYLE = """
:root { color-scheme: light dark; --ink: #222; --soft: #777; --line: #ddd; --paper: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --soft: #999; --line: #444; --paper: #181818; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 1180px; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.charts, .sheets { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); gap: 1rem; }
figure { margin: 0; min-width: 0; } figcaption { font-size: .85rem; color: var(--soft); }
figcaption b { color: var(--ink); } figcaption span { margin-left: .7em; white-space: nowrap; }
figcaption i { display: inline-block; width: .7em; height: .7em; margin-right: .3em; border-radius: 50%; }
svg { width: 100%; height: auto; } svg text { font-size: 11px; fill: var(--soft); }
.grid { stroke: var(--line); fill: none; } .curve { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
img { width: 100%; height: auto; border: 1px solid var(--line); }
table { border-collapse: collapse; font-size: .9rem; display: block; overflow-x: auto; }
td, th { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
"""


@dataclass(frozen=True)
class ShownRun:
    """What the folder of a run says."""

    name: str
    settings: dict[str, Any]
    """section.key -> value"""
    log: list[dict[str, float]]
    validation: list[dict[str, float]]
    sheets: dict[int, Path]
    """step -> picture"""
    best: int | None
    """step of the best validation"""


def read_lines(path: Path) -> list[dict[str, float]]:
    """The whole lines of a .jsonl file that have a step; a run in progress may be writing the last one."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            values = json.loads(line)
        except JSON_ERRORS:
            continue
        if isinstance(values, dict) and isinstance(values.get("step"), (int, float)):
            found.append({key: value for key, value in values.items() if isinstance(value, (int, float))})
    return sorted(found, key=lambda values: values["step"])


def read_run(folder: Path) -> ShownRun:
    """ConfigError where the folder is none of a run."""
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{folder} has no config.json, so it is no run of this trainer; give a folder such as runs/NAME."
        )
    config = read_object(folder / "config.json", "give the folder of another run")
    settings = {
        f"{section}.{key}": Path(str(value)).name if (section, key) in PATHS else value
        for section, content in config.items()
        if isinstance(content, dict)
        for key, value in content.items()
    }
    sheets = {
        int(found[1]): path
        for path in (folder / "samples").glob("step-*.png")
        if (found := re.fullmatch(r"step-(\d{1,18})\.png", path.name))
    }
    best = None
    if (folder / "best.json").is_file():
        step = read_object(folder / "best.json", "delete it").get("step")
        best = step if isinstance(step, int) else None
    log, validation = read_lines(folder / "log.jsonl"), read_lines(folder / "validation.jsonl")
    return ShownRun(folder.resolve().name, settings, log, validation, dict(sorted(sheets.items())), best)


def page(runs: Sequence[ShownRun]) -> str:
    """The whole page."""
    title = " and ".join(run.name for run in runs)
    sections = {
        "": summary(runs),
        "Loss": _charts(loss_charts(runs)),
        "Validation": _charts(validation_charts(runs)),
        "Samples": sheets(runs),
        "Speed": _charts(curves(runs, key, name) for key, name in SPEED.items()),
        "Settings": settings(runs),
    }
    body = "".join(f"<h2>{name}</h2>{text}" if name else text for name, text in sections.items() if text)
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
        f"<body><h1>{html.escape(title)}</h1>{body}</body></html>\n"
    )


# -- numbers -----------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows of values as an HTML table."""

    def row(cells: Sequence[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{row(head, 'th')}{''.join(row(cells, 'td') for cells in rows)}</table>"


def summary(runs: Sequence[ShownRun]) -> str:
    """A row of each run: how far it is, and how good."""
    rows = []
    for run in runs:
        last, validated = (run.log or [{}])[-1], [line for line in run.validation if "validation" in line]
        best = min(validated, key=lambda line: line["validation"]) if validated else None
        loss = sum(value for key, value in last.items() if key not in NO_LOSS)
        rows.append((
            run.name,
            run.settings.get("run.stage", ""),
            f"{last.get('step', 0):.0f} of {run.settings.get('run.steps', '?')}",
            number(loss) if run.log else "",
            f"{number(best['validation'])} at step {best['step']:.0f}" if best else "",
            number(last["images_per_s"]) if "images_per_s" in last else "",
            f"{last['peak_gib']:.1f}" if "peak_gib" in last else "",
        ))  # fmt: skip
    return table(("run", "stage", "steps", "loss", "best validation", "images/s", "peak GiB"), rows)


def settings(runs: Sequence[ShownRun]) -> str:
    """What differs between the runs, then everything."""
    keys = list(dict.fromkeys(key for run in runs for key in run.settings))
    rows = [(key, *(run.settings.get(key, "") for run in runs)) for key in keys]
    head = ("key", *(run.name for run in runs))
    differ = [row for row in rows if len({json.dumps(value) for value in row[1:]}) > 1]
    first = f"<p>Those that differ:</p>{table(head, differ)}" if differ else ""
    return f"{first}<details><summary>All settings</summary>{table(head, rows)}</details>"


# -- curves ------------------------------------------------------------------------------------------------------------


def _charts(texts: Iterable[str]) -> str:
    found = "".join(texts)
    return f'<div class="charts">{found}</div>' if found else ""


def curves(runs: Sequence[ShownRun], key: str, title: str, validated: bool = False) -> str:
    """A chart of one key of log.jsonl, or of validation.jsonl, with a curve of each run that has it."""
    lines = [(run.name, run.validation if validated else run.log) for run in runs]
    return chart(title, [
        Curve(name, [(line["step"], line[key]) for line in found if key in line], COLOURS[place % len(COLOURS)])
        for place, (name, found) in enumerate(lines)
    ])  # fmt: skip


def loss_charts(runs: Sequence[ShownRun]) -> list[str]:
    """One of every loss term."""
    terms = dict.fromkeys(key for run in runs for line in run.log for key in line if key not in NO_LOSS)
    return [curves(runs, term, term) for term in terms]


def validation_charts(runs: Sequence[ShownRun]) -> list[str]:
    """The loss over the run, the loss by noise level of the first and the best (or last) validation, and what else was
    measured, such as the entanglement."""
    keys = dict.fromkeys(key for run in runs for line in run.validation for key in line)
    levels = sorted(int(found[1]) for key in keys if (found := NOISE.fullmatch(key)))
    by_noise = []
    for place, run in enumerate(runs):
        lines = [line for line in run.validation if f"validation_t{levels[0]}" in line] if levels else []
        if not lines:
            continue
        shown = next((line for line in lines if line["step"] == run.best), lines[-1])
        for line in {lines[0]["step"]: lines[0], shown["step"]: shown}.values():
            points = [((level + 0.5) / len(levels), line[f"validation_t{level}"]) for level in levels
                      if f"validation_t{level}" in line]  # fmt: skip
            first = line is lines[0] and line is not shown
            label = f"{run.name}, step {line['step']:.0f}{' (dashed)' if first else ''}"
            by_noise.append(Curve(label, points, COLOURS[place % len(COLOURS)], dashed=first))
    rest = [key for key in keys if key not in ("step", "validation") and not NOISE.fullmatch(key)]
    over = [curves(runs, key, key.removeprefix("validation_"), validated=True) for key in rest]
    return [
        curves(runs, "validation", "validation loss", validated=True),
        chart("validation loss", by_noise, "noise level (0 clean, 1 noise)"),
        *over,
    ]


# -- sheets ------------------------------------------------------------------------------------------------------------


def evenly(steps: Sequence[int], most: int = SHEETS) -> list[int]:
    """The first, the last, and as many between."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(place * (len(steps) - 1) / (most - 1))] for place in range(most)]


def embedded(path: Path) -> str:
    """A picture as an address that holds it; WebP, not wider than WIDEST."""
    with open_picture(path) as file:
        image = file.convert("RGB")
        if image.width > WIDEST:
            image = image.resize((WIDEST, round(image.height * WIDEST / image.width)))
        content = io.BytesIO()
        image.save(content, format="WEBP", quality=90)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"


def sheets(runs: Sequence[ShownRun]) -> str:
    """The sample sheets, step by step, those of all runs side by side."""
    texts = []
    for step in evenly(sorted({step for run in runs for step in run.sheets})):
        for run in runs:
            if step in run.sheets:
                label = html.escape(f"{run.name}, step {step}" if step else f"{run.name}, before the first step")
                try:
                    shown = f'<img alt="{label}" src="{embedded(run.sheets[step])}">'
                except PICTURE_ERRORS as error:
                    shown = f"<p>{html.escape(f'{run.sheets[step].name}: {why(error)}')}</p>"
                texts.append(f"<figure><figcaption>{label}</figcaption>{shown}</figure>")
    columns = f' style="grid-template-columns: repeat({len(runs)}, 1fr)"' if len(runs) > 1 else ""
    return f'<div class="sheets"{columns}>{"".join(texts)}</div>' if texts else ""


# -- the command -------------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs, such as runs/my-character")
    parser.add_argument("--output", metavar="FILE", help="the page (default: show.html in the first run's folder)")


def run(args: argparse.Namespace) -> None:
    runs = [read_run(Path(folder)) for folder in args.runs]
    output = Path(args.output) if args.output else Path(args.runs[0]) / "show.html"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page(runs), encoding="utf-8")
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB; open it in a browser")
