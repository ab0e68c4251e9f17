"""Error against passes of ComfyUI's solvers: `python -m tests.bench solvers [--samplers ...] [--steps 2 4 8]`.

Held-out procedural pairs are coloured by ComfyUI's own samplers, every setting from the same noise (solvers_run.py),
and judged by `python -m trainer evaluate --results`. Pictures that are there already are not made again, so a stopped
command goes on and further settings are added to a table; all of it are compared pair by pair with the first setting
that is asked for. A pass is one picture through the network once; with guidance every call of the network costs two.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.golden.runner import comfy_command, find_comfy

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = (("shown_figure", "figure"), ("shown_background", "background"), ("shown_regions", "all shown"))


def trainer(*arguments: object) -> None:
    """Run `python -m trainer` and wait; its errors end this command."""
    subprocess.run([sys.executable, "-m", "trainer", *map(str, arguments)], cwd=ROOT, check=True, stdout=sys.stderr)


def name_of(sampler: str, scheduler: str, steps: int, guidance: float) -> str:
    """The folder of a setting's pictures."""
    return f"{sampler} {scheduler} {steps} cfg {guidance:g}"


def setting(text: str) -> tuple[str, str, int]:
    """An argument type: "euler:simple:4"."""
    sampler, scheduler, steps = text.split(":")
    return sampler, scheduler, int(steps)


def table(found: Sequence[dict], passes: dict[str, float]) -> str:
    """The runs of a report as lines, fewest passes first; an error is a median over pairs and regions (Lab)."""
    lines = [f"{'setting':44}passes  " + "".join(f"{title:>24}" for _, title in COLUMNS) + f"{'edge F1':>10}"]
    for run in sorted(found, key=lambda run: (passes[run["mode"]], run["shown_figure"]["error"])):
        cells = []
        for key, _ in COLUMNS:
            low, high = run[key].get("error_95", (float("nan"),) * 2)
            cells.append(f"{run[key]['error']:8.2f} ({low:.2f} to {high:.2f})".rjust(24))
        lines.append(f"{run['mode']:44}{passes[run['mode']]:6g}  {''.join(cells)}{run['edge_f1']:10.3f}")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench solvers", description=__doc__)
    add = parser.add_argument
    add("--checkpoint", type=Path, default=ROOT / "models" / "checkpoints" / "colorize_small.safetensors")
    add("--encoder", type=Path, default=ROOT / "models" / "clip_vision" / "colorize_small_vision.safetensors")
    add("--samplers", nargs="+", default=["euler", "dpmpp_2m", "uni_pc"], help="names of ComfyUI's samplers")
    add(
        "--schedulers",
        nargs="+",
        default=["simple", "normal", "karras", "sgm_uniform"],
        help="names of ComfyUI's schedulers",
    )
    add("--steps", nargs="+", type=int, default=[2, 3, 4, 6, 8, 12, 20])
    add("--settings", nargs="+", type=setting, metavar="SAMPLER:SCHEDULER:STEPS", help="these, not every combination")
    add("--guidance", nargs="+", type=float, default=[2.0])
    add("--count", type=int, default=16, help="pairs (default %(default)s)")
    add("--batch", type=int, default=8, help="pictures that are sampled together (default %(default)s)")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=0, help="CPU threads (default: torch's)")
    add("--folder", type=Path, default=Path("solvers"), help="where pairs and pictures are kept (default %(default)s)")
    args = parser.parse_args(arguments)
    comfy = find_comfy()
    if comfy is None:
        print("ComfyUI was not found. Set COMFYUI_PATH to its folder.", file=sys.stderr)
        return 2
    folder = args.folder.resolve()
    data, pairs = folder / "heldout", folder / f"pairs-{args.count}"
    if not (folder / f"drawn-{args.count}").is_file():
        trainer("demo-data", "--output", data, "--count", args.count, "--size", 256, "--split", "heldout")
        trainer("evaluate", "--data", data, "--count", args.count, "--pairs", pairs)
        (folder / f"drawn-{args.count}").touch()
    results = folder / f"results-{args.count}"
    wanted = args.settings or itertools.product(args.samplers, args.schedulers, args.steps)
    plan = [
        {"sampler": a, "scheduler": b, "steps": steps, "guidance": scale, "name": name_of(a, b, steps, scale)}
        for scale, (a, b, steps) in itertools.product(args.guidance, list(wanted))
    ]
    job = {
        "plan": plan, "pairs": str(pairs / "regions"), "results": str(results), "checkpoint": str(args.checkpoint),
        "encoder": str(args.encoder), "batch": args.batch, "seed": args.seed, "threads": args.threads,
    }  # fmt: skip
    results.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    subprocess.run(comfy_command(comfy, "tests.bench.solvers_run", folder / "job.json"), cwd=folder, check=True)
    made = [path for path in sorted(results.iterdir()) if (path / "passes.json").is_file()]
    made.sort(key=lambda path: path.name != plan[0]["name"])  # the others are compared with the first, pair by pair
    trainer("evaluate", "--data", data, "--count", args.count, "--output", folder / "evaluation", "--results", *made)
    report = json.loads((folder / "evaluation" / "report.json").read_text(encoding="utf-8"))
    passes = {path.name: json.loads((path / "passes.json").read_text(encoding="utf-8")) for path in made}
    print(table(report["protocols"][0]["runs"], passes))
    return 0
