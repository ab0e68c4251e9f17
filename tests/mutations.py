"""`python -m tests.mutations [WORD ...]`: breaks the training steps on purpose and asks whether a test notices.

Every mutation changes one place of the source in a copy of the repository and runs the tests named beside it, without
the recorded numbers of the released code (golden set). A mutation that survives is a step that could be wrong without
anybody seeing it. WORD: only mutations whose name has all of these words. Not part of the suite: it takes minutes.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
STAGES = "tests/trainer/stages"
DROP = f"{STAGES}/test_literal.py -k drop"
DUAL = f"{STAGES}/test_literal.py -k 4"
NOISY = f"{STAGES}/test_literal.py -k 3"
V1_5 = f"{STAGES}/test_literal.py -k v1_5"
MODES = f"{STAGES}/test_literal.py -k modes_of"
XL = f"{STAGES}/test_literal_xl.py -k stage_xl"
START = f"{STAGES}/test_literal_xl.py -k begins"
LORA, PLUGIN = (f"{STAGES}/test_literal_xl.py -k {kind}" for kind in ("xl_lora", "xl_plugin"))
LINES, PHASE_2, FID = (f"{STAGES}/test_literal_faces.py -k {test}" for test in ("papers", "phase_2", "fid"))
PRESETS = "tests/trainer/config/test_paper_presets.py"
SPLIT = "tests/colorize/unet/test_split_attention.py"
LEAN = "tests/trainer/models/test_lean_layers.py"
FUSED = "tests/trainer/run/test_fused.py"
TAUGHT = f"{STAGES}/test_distill.py -k stays_as_it_was"
THIRD_PARTY = [
    "torch",
    "numpy",
    "PIL",
    "safetensors.torch",
    "pytest",
    "accelerate",
    "open_clip",
    "torchmetrics",
    "tqdm",
]


class Mutation(NamedTuple):
    """One change of the source that must make a test fail."""

    name: str
    file: str
    old: str
    """occurs once in the file"""
    new: str
    tests: str
    """what runs: a file, or a file and `-k` words after a space"""


MUTATIONS = (
    Mutation(
        "v1: dual, second term with the reference",
        "trainer/stages/v1.py",
        "torch.zeros_like(tokens),",
        "tokens,",
        DUAL,
    ),
    Mutation(
        "v1: dual, one noise for both terms",
        "trainer/stages/v1.py",
        "other = drawn_noise(latents.shape, loss, draws).to(self.device)",
        "other = noise; draws.randn(latents.shape); draws.randn(latents.shape[:2])",
        DUAL,
    ),
    Mutation(
        "v1: noisy tokens at t = 0",
        "trainer/stages/v1.py",
        "noisy_tokens(self.schedule, tokens, noise, t, loss.noisy_variant)",
        "noisy_tokens(self.schedule, tokens, noise, torch.zeros_like(t), loss.noisy_variant)",
        NOISY,
    ),
    Mutation(
        "v1: reference drop never applied",
        "trainer/stages/v1.py",
        "return drop_references(tokens, keep_mask(len(tokens), rate, draws))",
        "return drop_references(tokens, keep_mask(len(tokens), rate, draws) * 0 + 1)",
        DROP,
    ),
    Mutation(
        "v1: sketch of the next sample",
        "trainer/stages/v1.py",
        "control = self._colorizer[0].sketch_encoder(model_sketch(sketches))",
        "control = self._colorizer[0].sketch_encoder(model_sketch(sketches).roll(1, dims=0))",
        DROP,
    ),
    Mutation(
        "v1_5: sketch black on white",
        "trainer/stages/v1_5.py",
        "control = colorizer.sketch_encoder(model_sketch(sketches))",
        "control = colorizer.sketch_encoder(-model_sketch(sketches))",
        V1_5,
    ),
    Mutation(
        "v1_5: sketch keeps the whitened background's lines",
        "trainer/stages/v1_5.py",
        'torch.cat([whiten_background(batch["sketch"].float(), figure, bleached, 255.0), masks], dim=1)',
        'torch.cat([batch["sketch"].float(), masks], dim=1)',
        V1_5,
    ),
    Mutation(
        "sketch encoder: the stem's last activation missing",
        "colorize/sketch/encoder.py",
        "return nn.Sequential(*layers, conv(width, model_channels))",
        "return nn.Sequential(*layers[:-1], nn.Identity(), conv(width, model_channels))",
        DROP,
    ),
    *(
        Mutation(f"{stage}: drop schedule {how}", file, "loss.reference_drop_end, progress)", new, tests)
        for stage, file, tests in (
            ("v1", "trainer/stages/v1.py", DROP),
            ("v1_5", "trainer/stages/v1_5.py", V1_5),
            ("xl", "trainer/stages/xl.py", XL),
            ("xl regions", "trainer/stages/xl_regions.py", LORA),
        )
        for how, new in (
            ("frozen", "loss.reference_drop_end, 0.0)"),
            ("reversed", "loss.reference_drop_end, 1.0 - progress)"),
        )
    ),
    *(
        Mutation(
            f"{stage}: offset noise off",
            file,
            "noise = drawn_noise(latents.shape, loss, draws)",
            "noise = (draws.randn(latents.shape), draws.randn(latents.shape[:2]))[0]",
            tests,
        )
        for stage, file, tests in (
            ("v1", "trainer/stages/v1.py", DROP),
            ("v1_5", "trainer/stages/v1_5.py", V1_5),
            ("xl", "trainer/stages/xl.py", XL),
            ("xl regions", "trainer/stages/xl_regions.py", LORA),
        )
    ),
    Mutation(
        "v1_5: figure and background tokens swapped",
        "trainer/stages/v1_5.py",
        "sets = [drop_references(tokens, keep), drop_references(background, keep)]",
        "sets = [drop_references(background, keep), drop_references(tokens, keep)]",
        V1_5,
    ),
    Mutation(
        "v1_5: sketch threshold not passed",
        "trainer/stages/v1_5.py",
        "split=Split(sets, cells, OPTIONS, ours)",
        "split=Split(sets, cells, OPTIONS)",
        V1_5,
    ),
    Mutation(
        "v1_5: figure mask inverted",
        "trainer/stages/v1_5.py",
        'masks = figure_mask(batch["mask"])',
        'masks = 1 - figure_mask(batch["mask"])',
        V1_5,
    ),
    Mutation(
        "v1_5: figure mask of the reference inverted",
        "trainer/stages/v1_5.py",
        "without_figure(references, masks.float() / 255, thresholds)",
        "without_figure(references, 1 - masks.float() / 255, thresholds)",
        V1_5,
    ),
    Mutation(
        "modes: bg2fig with the background's LoRA",
        "colorize/modes.py",
        'Mode("bg2fig", FIGURE)',
        'Mode("bg2fig", BACKGROUND)',
        MODES,
    ),
    Mutation(
        "split attention: a region with the other's LoRA",
        "colorize/unet/kept.py",
        'layer.term("to_v", shown, kind)',
        'layer.term("to_v", shown, kind and {"fg": "bg", "bg": "fg"}[kind])',
        V1_5,
    ),
    Mutation(
        "split attention: mask >= for >",
        "colorize/unet/split_attention.py",
        "masks >= level if options.ties_to_figure else masks > level",
        "masks >= level",
        SPLIT,
    ),
    Mutation("xl: Gram weight ignored", "trainer/stages/xl.py", "gram.weight * gram_loss(", "gram_loss(", XL),
    Mutation(
        "xl: Gram start doubled",
        "trainer/stages/xl.py",
        "progress >= self.config.gram.start",
        "progress >= 2 * self.config.gram.start",
        START,
    ),
    Mutation(
        "xl: Gram loss between the aligned branch and itself",
        "trainer/stages/xl.py",
        "self.y(batch), context, other, figure, shown)",
        "self.y(batch), context, None if other is None else context, figure, shown)",
        XL,
    ),
    Mutation(
        "xl: sketch drop inverted",
        "trainer/stages/xl.py",
        'model_sketch(batch["sketch"])), ~dropped)',
        'model_sketch(batch["sketch"])), dropped)',
        XL,
    ),
    Mutation(
        "xl: inpainting keeps the wrong side",
        "trainer/stages/xl.py",
        'masks = batch["other_reference_mask"][chosen].float() / 255',
        'masks = 1 - batch["other_reference_mask"][chosen].float() / 255',
        XL,
    ),
    Mutation(
        "xl: projection joins in the other order",
        "colorize/reference/token_projection.py",
        "torch.cat([seen, self._tagger(tagger_tokens)], dim=-1)",
        "torch.cat([self._tagger(tagger_tokens), seen], dim=-1)",
        XL,
    ),
    Mutation(
        "xl: projection without the class token",
        "colorize/reference/token_projection.py",
        "self.norm(self.attn(clip_tokens)[:, :count])",
        "self.norm(self.attn(clip_tokens)[:, 1 : 1 + count])",
        XL,
    ),
    Mutation(
        "xl_plugin: sketch not erased",
        "trainer/stages/xl_regions.py",
        "torch.ones_like(bleached) if self.plugin else bleached",
        "bleached",
        PLUGIN,
    ),
    Mutation(
        "xl_plugin: hard blend",
        "trainer/stages/xl_regions.py",
        "soft=True, overshoot=True)",
        "soft=False)",
        PLUGIN,
    ),
    Mutation(
        "xl_plugin: the figure reads the bank too",
        "colorize/unet/unet.py",
        "banks and isinstance(tokens, Split) else None",
        "False else None",
        PLUGIN,
    ),
    Mutation(
        "xl_lora: figure and background tokens swapped",
        "trainer/stages/xl_regions.py",
        "Split([drop_references(tokens, keep) for tokens in sets]",
        "Split([drop_references(tokens, keep) for tokens in sets[::-1]]",
        LORA,
    ),
    Mutation(
        "xl_lora: sketch threshold not passed",
        "trainer/stages/xl_regions.py",
        "cells, self.options, ours)",
        "cells, self.options)",
        LORA,
    ),
    Mutation(
        "xl_lora: figure mask inverted",
        "trainer/stages/xl_regions.py",
        'for name in ("mask", "reference_mask"))\n        figure =',
        'for name in ("mask", "reference_mask"))\n        masks = 1 - masks\n        figure =',
        LORA,
    ),
    Mutation(
        "animediffusion_2: started from the reference",
        "trainer/stages/animediffusion.py",
        'if loss.chain_start == "reference":',
        'if loss.chain_start != "noise":',
        PHASE_2,
    ),
    Mutation(
        "animediffusion_2: walked up with a zeroed condition",
        "trainer/stages/animediffusion.py",
        "predict = self.predictor(condition, timed=not released)",
        "predict = self.predictor(condition * 0, timed=not released)",
        PHASE_2,
    ),
    *(
        Mutation(
            f"XDoG: {name}",
            "colorize/sketch/extractors/xdog.py",
            f"{name}: float = {value}",
            f"{name}: float = {other}",
            LINES,
        )
        for name, value, other in (("k", "3.5", "1.6"), ("p", "9.0", "10.0"), ("epsilon", "0.01", "0.1"))
    ),
    Mutation(
        "warp: inverse",
        "trainer/data/diagonal_warp.py",
        "source_positions(solve(source, target), target,",
        "source_positions(solve(target, source), source,",
        LINES,
    ),
    Mutation(
        "evaluate-faces: FID of the truth with itself",
        "trainer/commands/evaluate_faces.py",
        "_rows(extract, made)",
        "_rows(extract, truth)",
        FID,
    ),
    *(
        Mutation(f"preset {name}: steps", f"trainer/presets/{name}.toml", f"steps = {steps}", "steps = 1000", PRESETS)
        for name, steps in (
            ("v1-paper", "250000"),
            ("v1-noisy-paper", "350000"),
            ("v1_5-paper", "112500"),
            ("xl-paper", "70000"),
            ("animediffusion", "297_150"),
        )
    ),
    Mutation(
        "distill: the teacher keeps the student's adapters",
        "trainer/stages/distill.py",
        "with as_teacher():",
        "with contextlib.nullcontext():",
        TAUGHT,
    ),
    Mutation(
        "distill: a teacher without guidance",
        "trainer/stages/distill.py",
        "if scale == 1:",
        "if scale:",
        f"{STAGES}/test_distill.py -k guidance_and_reference",
    ),
    Mutation(
        "8 bits: one scale for all outputs",
        "trainer/models/lean_layers.py",
        "scale = rows.abs().amax(1, keepdim=True) / MOST",
        "scale = rows.abs().amax().expand(len(rows), 1) / MOST",
        f"{LEAN} -k rounding",
    ),
    Mutation(
        "8 bits: the gradient of a convolution without its groups",
        "trainer/models/lean_layers.py",
        "self.stride, padding, self.dilation, self.groups)",
        "self.stride, padding, self.dilation)",
        f"{LEAN} -k whole_one_with",
    ),
    Mutation(
        "at rest: a weight stays on the device for the backward pass",
        "trainer/models/lean_layers.py",
        "ctx.layer, ctx.shape = layer, x.shape",
        "ctx.layer, ctx.shape, ctx.kept = layer, x.shape, layer.fetched(x.dtype)",
        f"{LEAN} -k visits_one_by_one",
    ),
    Mutation(
        "fused: every parameter steps with the first group's settings",
        "trainer/run/fused.py",
        "self.optimizer.param_groups = [groups[number] |",
        "self.optimizer.param_groups = [groups[0] |",
        f"{FUSED} -k every_group",
    ),
    Mutation(
        "fused: a gradient stays after its step",
        "trainer/run/fused.py",
        "        parameter.grad = None\n",
        "",
        f"{FUSED} -k fewer_gradients",
    ),
    Mutation(
        "art: a mirrored figure's second colour on the other side",
        "trainer/art/painted.py",
        "1 - across if self.mirrored else across",
        "across",
        "tests/trainer/art/test_art.py -k two_colours",
    ),
)


def mutated(text: str, mutation: Mutation) -> str:
    """The file's text with the change. ValueError when the place is not there exactly once."""
    if (count := text.count(mutation.old)) != 1:
        raise ValueError(f"{mutation.name}: {mutation.old!r} stands {count} times in {mutation.file}; name it anew.")
    return text.replace(mutation.old, mutation.new)


def copy_of_the_tree(target: Path) -> None:
    """The files that git knows or does not ignore."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("models/", "docs/images/")):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def run_tests(folder: str, tests: str) -> None:
    """In a process of its own: run the tests of a copy and exit with pytest's code."""
    import pytest

    for module in [name for name in sys.modules if name.partition(".")[0] in ("tests", "trainer", "colorize")]:
        del sys.modules[module]
    os.chdir(folder)
    sys.path[:] = [folder, *(path for path in sys.path if path and Path(path).resolve() != ROOT)]
    os.environ.pop("GOLDEN_DIR", None)
    sys.dont_write_bytecode = True
    file, *rest = tests.split(" ", 1)
    with open(os.devnull, "w") as nowhere:
        sys.stdout = sys.stderr = nowhere
        code = pytest.main([file, "-x", "-q", "-p", "no:cacheprovider", *(rest[0].split(" ", 1) if rest else ())])
    os._exit(int(code))


def outcome(context: multiprocessing.context.BaseContext, folder: Path, tests: str) -> int:
    """pytest's exit code: 0 all passed, 1 some failed, else the tests could not run."""
    process = context.Process(target=run_tests, args=(str(folder), tests))
    process.start()
    process.join()
    return process.exitcode if process.exitcode is not None else -1


def main(words: list[str]) -> int:
    chosen = [mutation for mutation in MUTATIONS if all(word.lower() in mutation.name.lower() for word in words)]
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forks else "spawn")
    if forks:
        context.set_forkserver_preload(THIRD_PARTY)
    survivors = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        copy_of_the_tree(folder)
        for tests in dict.fromkeys(mutation.tests for mutation in chosen):
            if code := outcome(context, folder, tests):
                print(f"without any change {tests} ends with {code}: mend it first.")
                return 2
        for mutation in chosen:
            begun, file = time.monotonic(), folder / mutation.file
            text = file.read_text(encoding="utf-8")
            file.write_text(mutated(text, mutation), encoding="utf-8")
            code = outcome(context, folder, mutation.tests)
            file.write_text(text, encoding="utf-8")
            verdict = {0: "SURVIVES", 1: "dies"}.get(code, f"breaks ({code})")
            print(f"{verdict:10} {time.monotonic() - begun:5.1f} s  {mutation.name}", flush=True)
            if code != 1:
                survivors.append(mutation.name)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} die.")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
