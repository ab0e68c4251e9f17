"""Stage distill: what it trains, what a step is, and what it exports, for every family."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from colorize import families, names, sampler_settings
from colorize.distilled import Distilled
from tests import tiny
from tests.trainer.stages.xl_runs import first_batch, regions_of
from trainer import config as configuration
from trainer.__main__ import main
from trainer.config import ConfigError
from trainer.draws import Draws
from trainer.losses.distillation import teacher_grid
from trainer.models import checkpoint
from trainer.models.colorizer import V1Colorizer
from trainer.models.denoising import Denoising
from trainer.models.loras import with_loras
from trainer.run import init_from
from trainer.run.loop import train
from trainer.stages import file_sizes, table
from trainer.stages.table import build_stage, checked

CPU = torch.device("cpu")
UNET = "model.diffusion_model."


@pytest.fixture
def v1(values, v1_file, frozen) -> dict[str, dict]:
    """Configuration of a run of 6 steps that distils the tiny v1 model."""
    optimizer = values["optimizer"] | {"lr": 1e-2}
    return values | {
        "run": values["run"] | {"stage": "distill"},
        "model": {"init": v1_file, "encoder": frozen["encoder"]},
        "distill": {"teacher_steps": 4},
        "loss": {"reference_drop": 0.3},
        "optimizer": optimizer,
    }


@pytest.fixture
def v1_5(v1, tmp_path) -> dict[str, dict]:
    """The same of a v1.5 model, by regions too."""
    file = tmp_path / "v1_5.safetensors"
    checkpoint.write_tensors(file, tiny.checkpoint_v1_5(), tiny.METADATA_V1_5)
    encoder = tmp_path / "encoder.safetensors"
    checkpoint.write_tensors(
        encoder, tiny.reference_encoder().state_dict(), {"colorize.image_size": "56", "colorize.head_width": "16"}
    )
    model = {"init": str(file), "encoder": str(encoder)}
    return v1 | {"model": model, "distill": v1["distill"] | {"modes": ["vanilla", "masked", "bg2fig", "fig2fig"]}}


@pytest.fixture
def xl_student(xl, backbone) -> dict[str, dict]:
    """The same of an XL model."""
    return xl | {
        "run": xl["run"] | {"stage": "distill"},
        "model": {key: xl["model"][key] for key in ("encoder", "tagger")} | {"init": backbone},
        "distill": {"teacher_steps": 4},
        "loss": {"reference_drop": 0.3},
        "gram": {"weight": 0.0},
    }


def with_(values: dict, **changes) -> configuration.Config:
    return configuration.build({k: {**v, **changes.get(k, {})} for k, v in values.items()})


def step_of(config: configuration.Config, step: int = 0) -> dict[str, torch.Tensor]:
    stage = build_stage(config, CPU)
    return stage(first_batch(config), Draws(0, step, range(config.optimizer.batch)))


@pytest.mark.parametrize("family", ["v1", "v1_5", "xl_student"])
@pytest.mark.parametrize("method", ["trajectory", "consistency"])
def test_every_family_learns(request, family, method):
    values = request.getfixturevalue(family)
    config = with_(values, distill={"method": method}, run={"steps": 2})
    before, _ = checkpoint.read_tensors(Path(config.model.init))
    after, metadata = checkpoint.read_tensors(train(config))
    kept = {key for key in before if not key.startswith(UNET) or names.REGION_LORA in key}
    assert all(torch.equal(after[key], before[key]) for key in kept)
    trained = [key for key in before if key not in kept and before[key].ndim > 1]
    assert sum(not torch.equal(after[key], before[key].float()) for key in trained) > 0.9 * len(trained)
    assert after.keys() - before.keys() <= {UNET + names.DISTILLED, names.V_MARKER, names.HEAD_WIDTH}
    assert Distilled.from_values(after[UNET + names.DISTILLED]) == Distilled(2, 2.0)
    assert json.loads(metadata["colorize.distilled"])["sampler"] == "euler"
    assert sampler_settings.read(metadata["colorize.sampler"]) == Distilled(2, 2.0).settings
    assert families.detect(after, metadata).name == {"v1": "v1", "v1_5": "v1.5", "xl_student": "xl"}[family]


def test_plugins_and_second_stages_of_xl_can_be_taught(xl, backbone, xl_student, tmp_path):
    for kind, taught in (("xl_plugin", "masked"), ("xl_lora", "fig2fig")):
        stage = build_stage(configuration.build(regions_of(xl, backbone, kind)), CPU)
        file = tmp_path / f"{kind}.safetensors"
        checkpoint.write_tensors(file, *stage.export(stage.state_dict()))
        data = {"reference": "self"} if kind == "xl_plugin" else {}
        config = with_(xl_student, model={"init": str(file)}, distill={"modes": [taught]}, data=data)
        assert step_of(config)["distillation"].isfinite()


def test_what_was_learned_is_exported_as_a_lora_as_well(v1, v1_file):
    exported = train(with_(v1, run={"steps": 2}, distill={"lora_rank": 8}))
    lora, metadata = checkpoint.read_tensors(exported.with_stem(exported.stem + "-lora"))
    after, before = checkpoint.read_tensors(exported)[0], checkpoint.read_tensors(Path(v1_file))[0]
    key = "output_blocks.3.1.transformer_blocks.0.attn1.to_q"
    up, down = (lora[f"diffusion_model.{key}.lora_{side}.weight"].float() for side in ("up", "down"))
    learned = after[f"{UNET}{key}.weight"] - before[f"{UNET}{key}.weight"]
    assert up.shape == (32, 8) and 0 < (learned - up @ down).norm() < 0.9 * learned.norm()
    assert lora["diffusion_model.distilled.set_weight"].tolist() == [2.0, 2.0]
    assert metadata["modelspec.architecture"] == "colorize-diffusion/lora"


@pytest.fixture
def adapter(v1) -> dict[str, dict]:
    """The student of `v1` as adapters on its teacher."""
    return v1 | {"adapter": {"kind": "lora", "rank": 4}}


@pytest.mark.parametrize("method", ["trajectory", "consistency"])
def test_adapters_begin_as_whole_weights_do(v1, adapter, method):
    """One network with and without them stands for two: the first losses are equal."""
    ours, theirs = (step_of(with_(values, distill={"method": method})) for values in (adapter, v1))
    assert torch.equal(ours["distillation"], theirs["distillation"])


def test_the_teacher_stays_as_it_was_while_adapters_learn(v1, adapter):
    stage, whole = (build_stage(with_(values), CPU) for values in (adapter, v1))
    for value in stage.parameters():
        value.data += 0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel()))
    lesson = whole.lessons.lesson(first_batch(with_(v1)), "vanilla", Draws(0, 0, range(2)))
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([700, 300])
    student, teacher, plain = (f(lesson)(x, t) for f in (stage.student, stage.teacher, whole.teacher))
    assert torch.allclose(teacher, plain, atol=1e-6) and (student - whole.student(lesson)(x, t)).abs().max() > 1e-3
    assert [name.split(".")[0] for name, _ in stage.named_parameters()][:1] == ["diffusion_model"]
    assert not any(p.requires_grad for p in stage.lessons.colorizer.unet.parameters())


@pytest.mark.parametrize("family", ["v1_5", "xl_student"])
def test_adapters_of_every_family_learn(request, family):
    values = request.getfixturevalue(family) | {"adapter": {"kind": "lora", "rank": 2, "layers": "attention"}}
    lora, metadata = checkpoint.read_tensors(train(with_(values, run={"steps": 2})))
    assert all(key.startswith("diffusion_model.") for key in lora)
    assert any(value.any() for key, value in lora.items() if key.endswith("lora_up.weight"))
    assert lora["diffusion_model.distilled.set_weight"].tolist() == [2.0, 2.0]
    assert json.loads(metadata["colorize.distilled"])["steps"] == 2


def test_adapters_go_on_exactly_and_become_a_whole_student(adapter, v1_file, frozen, tmp_path):
    """Four steps are two and two; merged, the file says that it is a student, and answers as the adapters did."""
    values = adapter | {"optimizer": adapter["optimizer"] | {"decay": "constant"}}
    straight, _ = checkpoint.read_tensors(train(with_(values, run={"steps": 4})))
    for steps in (2, 4):
        file = train(with_(values, run={"output": str(tmp_path / "again"), "steps": steps}))
    lora, _ = checkpoint.read_tensors(file)
    assert all(torch.equal(lora[key], value) for key, value in straight.items())
    whole = tmp_path / "whole.safetensors"
    assert main(["convert", str(file.parent), "--merge", "--dtype", "fp32", "--output", str(whole)]) == 0
    tensors, metadata = checkpoint.read_tensors(whole)
    assert Distilled.from_values(tensors[UNET + names.DISTILLED]) == Distilled(2, 2.0)
    assert sampler_settings.read(metadata["colorize.sampler"]) == Distilled(2, 2.0).settings
    stage = build_stage(with_(values), CPU)
    stage.load_state_dict({k: v for k, v in lora.items() if "distilled" not in k})
    lesson = stage.lessons.lesson(first_batch(with_(values)), "vanilla", Draws(0, 0, range(2)))
    t, merged = torch.tensor([700, 300]), V1Colorizer.from_files(str(whole), frozen["encoder"], CPU).unet
    on_top = V1Colorizer.from_files(v1_file, frozen["encoder"], CPU, [str(file)]).unet.state_dict()
    assert all(torch.allclose(on_top[name], value, atol=1e-6) for name, value in merged.state_dict().items())

    def apart(x: torch.Tensor) -> float:
        a, b = stage.student(lesson)(x, t), stage._x0(lambda *at: lesson.answer(merged, *at))(x, t)
        return float((a - b).abs().max())

    # Normalising two values of a 1x1 map is a step in the network: a rounding error near it is as large as the answer.
    inputs = torch.randn(6, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert min(map(apart, inputs)) < 1e-3


def test_adapters_need_no_second_network(v1, adapter):
    """By the estimate; with whole weights the teacher lies beside its student."""
    costs = [table.row(config).cost(config) for config in map(with_, (v1, adapter))]
    assert "teacher" in costs[0].frozen and "teacher" not in costs[1].frozen
    assert list(costs[1].trained) == ["lora of the U-Net"]
    assert costs[1].frozen["U-Net"] == costs[0].trained["U-Net"] == costs[0].frozen["teacher"]


def test_the_student_is_its_teacher_before_it_learns(v1):
    """Without guidance, and with as many steps as the student, the teacher asks for what is answered already."""
    same = {"guidance": 1.0, "teacher_steps": 2, "own_starts": 0.0}
    assert step_of(with_(v1, distill=same))["distillation"] < 1e-9
    assert step_of(with_(v1, distill=same | {"guidance": 2.0}))["distillation"] > 1e-7
    assert step_of(with_(v1, distill=same | {"teacher_steps": 8}))["distillation"] > 1e-7


def test_guidance_and_reference_drop_reach_the_teacher(v1):
    """The guided answer is that of the two groups of rows; a sample without reference has nothing to be guided away
    from."""
    config = with_(v1, loss={"reference_drop": 0.0})
    stage, batch = build_stage(config, CPU), first_batch(config)
    lesson = stage.lessons.lesson(batch, "vanilla", Draws(0, 0, range(2)))
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([700, 300])
    unet = stage.lessons.colorizer.unet
    answers = [unet(x, t, tokens, lesson.control) for tokens in (lesson.tokens[0], lesson.tokens[0] * 0)]
    guided = answers[1] + 2.0 * (answers[0] - answers[1])
    assert torch.allclose(stage.teacher(lesson)(x, t), stage.schedule.x0_from(guided, x, t, "v"), atol=1e-5)
    dropped = stage.lessons.lesson(batch, "vanilla", Draws(0, 0, range(2)))._replace(
        tokens=(torch.zeros_like(lesson.tokens[0]),)
    )
    assert torch.allclose(stage.teacher(dropped)(x, t), stage.student(dropped)(x, t), atol=1e-5)


def test_own_starts_are_where_the_student_arrived(v1):
    config = with_(v1, distill={"own_starts": 1.0})
    stage, batch = build_stage(config, CPU), first_batch(config)
    lesson = stage.lessons.lesson(batch, "vanilla", Draws(0, 0, range(2)))
    noise = torch.randn(2, 4, 8, 8)
    x, t, _ = stage.trajectory(lesson, noise, torch.tensor([100, 900]), Draws(0, 0, range(2)))
    assert t.tolist() == [499, 999] and torch.equal(x[1], noise[1])
    how = Denoising(2, 1.0, sampler="euler")
    begin = torch.tensor([999, 999])
    x0 = stage.student(lesson)(noise, begin)
    signal, spread = stage.schedule.coefficients(torch.tensor([499, 499]), noise)
    noise_left = (noise - stage.schedule.coefficients(begin, noise)[0] * x0) / stage.schedule.coefficients(
        begin, noise
    )[1]
    assert how.steps == 2 and torch.allclose(x[0], (signal * x0 + spread * noise_left)[0], atol=1e-4)


def test_own_starts_of_consistency_begin_segments_alone(v1):
    """Inside a segment, and where a share of none is asked for, pictures are noisy ones."""
    stage = build_stage(with_(v1, distill={"own_starts": 1.0, "method": "consistency"}), CPU)
    lesson = stage.lessons.lesson(first_batch(with_(v1)), "vanilla", Draws(0, 0, range(2)))
    noise, drawn = torch.randn(2, 4, 8, 8), torch.tensor([400, 200])  # the beginning of segment 1, and within it
    x, t, _ = stage.consistency(lesson, noise, drawn, Draws(0, 0, range(2)))
    assert t.tolist() == [499, 249]
    mended, _, _ = stage.trajectory(lesson, noise, drawn, Draws(0, 0, range(2)))
    noisy = stage.schedule.add_noise(lesson.latents, noise, t)
    assert torch.equal(x[0], mended[0]) and torch.equal(x[1], noisy[1])
    assert (x[0] - noisy[0]).abs().max() > 0.1


@pytest.mark.parametrize("method", ["trajectory", "consistency"])
def test_the_truth_takes_its_share_of_the_steps(v1, method):
    """By hand: a step compares with the true clean sample alone, or with the teacher's alone, which it asks then."""
    settings = {"distill": {"method": method, "truth": 0.25}, "loss": {"huber": 0.1}}
    stage = build_stage(with_(v1, **settings), CPU)
    batch, learn, teacher = first_batch(with_(v1)), getattr(stage, method), stage.teacher
    seen, calls = [], []
    setattr(stage, method, lambda *values: seen.append(learn(*values)) or seen[-1])
    stage.teacher = lambda lesson: calls.append(lesson) or teacher(lesson)
    true_steps = 0
    for seed in range(12):
        calls.clear()
        got, asked_for = stage(batch, Draws(seed, 0, range(2))), len(calls)
        x, t, asked = seen.pop()
        lesson = stage.lessons.lesson(batch, "vanilla", Draws(seed, 0, range(2)))
        used, unused = ("truth", "distillation") if got["truth"] else ("distillation", "truth")
        far = (stage.student(lesson)(x, t) - (lesson.latents if used == "truth" else asked())).abs()
        error = torch.where(far <= 0.1, far**2, 0.2 * far - 0.01).mean((1, 2, 3))
        weight = stage.schedule.signal_to_noise(t).clamp_min(1)
        assert torch.allclose(got[used], (weight * error).mean(), rtol=1e-4)
        assert got[unused] == 0 and asked_for == (used == "distillation")
        true_steps += used == "truth"
    assert 1 <= true_steps <= 6
    assert step_of(with_(v1, distill={"method": method})).keys() == {"distillation"}


def test_students_of_the_truth_alone_have_no_teacher_to_wait_for(v1):
    stage = build_stage(with_(v1, distill={"truth": 1.0}, loss={"huber": 0.1}), CPU)
    stage.teacher = None
    assert stage(first_batch(with_(v1)), Draws(0, 0, range(2)))["truth"] > 0


def test_a_student_goes_on_from_another_student(v1, tmp_path):
    """model.init_from is where the student begins; its teacher stays the model of model.init."""
    student = train(with_(v1, run={"steps": 2}))

    def begun(start: str) -> dict[str, torch.Tensor]:
        run, still = {"steps": 1, "output": str(tmp_path / f"on{bool(start)}")}, {"lr": 1e-12}
        return checkpoint.read_tensors(train(with_(v1, model={"init_from": start}, run=run, optimizer=still)))[0]

    before, _ = checkpoint.read_tensors(student)
    trained = [key for key in before if key.startswith(UNET) and "distilled" not in key]
    on, new = begun(str(student)), begun("")
    assert all(torch.allclose(on[key], before[key], atol=1e-6) for key in trained)
    assert sum(not torch.allclose(new[key], before[key], atol=1e-6) for key in trained) > 10


def test_a_student_goes_on_from_the_lora_of_another(v1, v1_file, tmp_path):
    whole = train(with_(v1, run={"steps": 2}, distill={"lora_rank": 8}))
    lora = str(whole.with_stem(whole.stem + "-lora"))
    wanted = with_loras(checkpoint.read_tensors(Path(v1_file))[0], [lora])
    wanted = {key: value for key, value in wanted.items() if key.startswith(UNET) and "distilled" not in key}
    config = with_(
        v1, model={"init_from": lora}, run={"steps": 1, "output": str(tmp_path / "on")}, optimizer={"lr": 1e-12}
    )
    on, _ = checkpoint.read_tensors(train(config))
    assert all(torch.allclose(on[key], value.float(), atol=1e-6) for key, value in wanted.items())
    before = checkpoint.read_tensors(Path(v1_file))[0]
    assert sum(not torch.allclose(on[key], before[key].float(), atol=1e-6) for key in wanted if key in before) > 10
    stage = build_stage(config, CPU)
    with checkpoint.headers_only():
        init_from.check(stage, lora)  # as a dry run does
    stage.config = with_(v1, model={"init": ""})
    with pytest.raises(ConfigError, match="a LoRA, which is a change of a model"):
        init_from.start(stage, lora)


@pytest.mark.parametrize("method", ["trajectory", "consistency"])
def test_validation_asks_at_the_levels_it_names(v1, method):
    """The share of the schedule that a validation draws from decides segment and grid point."""
    config = with_(v1, distill={"method": method})
    stage, batch = build_stage(config, CPU), first_batch(config)
    lesson = stage.lessons.lesson(batch, "vanilla", Draws(0, 0, range(2)))
    grid = teacher_grid(1000, 2, 2)
    learn = stage.trajectory if method == "trajectory" else stage.consistency
    for step, wanted in ((999, grid[0, 0]), (500, grid[0, 0 if method == "trajectory" else 1]), (499, grid[1, 0])):
        _, t, _ = learn(lesson, torch.randn(2, 4, 8, 8), torch.tensor([step, step]), Draws(0, 0, range(2)))
        assert t.tolist() == [int(wanted)] * 2


def test_six_steps_equal_three_and_three(v1, tmp_path):
    values = v1 | {"optimizer": v1["optimizer"] | {"decay": "constant"}}
    whole, _ = checkpoint.read_tensors(train(with_(values)))
    for steps in (3, 6):
        again = train(with_(values, run={"output": str(tmp_path / "again"), "steps": steps}))
    halves, _ = checkpoint.read_tensors(again)
    assert all(torch.equal(halves[key], value) for key, value in whole.items())


def test_the_student_runs_in_few_passes_and_the_trainer_reads_it(v1, frozen):
    exported = train(with_(v1, run={"steps": 2}))
    colorizer = V1Colorizer.from_files(str(exported), frozen["encoder"], CPU)
    passes = []
    colorizer.unet.register_forward_hook(lambda *_: passes.append(1))
    batch = first_batch(with_(v1))
    tokens = colorizer.tokens(batch["reference"].float() / 127.5 - 1)
    sketches = -(batch["sketch"].float() / 127.5 - 1).expand(-1, 3, -1, -1)
    picture = colorizer.generate(sketches, tokens, Denoising(2, 1.0, sampler="euler"), torch.Generator().manual_seed(0))
    assert picture.shape == (2, 3, 64, 64) and len(passes) == 2


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("distill", {"modes": []}, "one or more of vanilla"),
        ("distill", {"modes": ["fig3fig"]}, "one or more of vanilla"),
        ("distill", {"steps": 8, "teacher_steps": 200, "method": "consistency"}, None),
        ("distill", {"steps": 0}, "from 1 to 16"),
        ("adapter", {"kind": "lora"}, "set distill.lora_rank to 0"),
        ("model", {"init": ""}, "model.init is empty"),
        ("model", {"tagger": "tagger.safetensors"}, "is no XL model"),
        ("model", {"prediction_type": "eps"}, "predicts v"),
        ("distill", {"modes": ["fig2fig"]}, "needs the region weights"),
    ],
)
def test_mistakes_name_the_way_out(v1, section, changes, message):
    if section == "adapter":
        v1 = v1 | {"distill": v1["distill"] | {"lora_rank": 4}, "adapter": {}}
    if message is None:
        assert checked(with_(v1, **{section: changes}))
        return
    with pytest.raises(ConfigError, match=message):
        build_stage(with_(v1, **{section: changes}), CPU)


def test_other_stages_have_no_such_section(values):
    with pytest.raises(ConfigError, match="distill.steps belongs to stage distill"):
        checked(configuration.build(values | {"distill": {"steps": 4}}))


def test_a_file_that_is_not_there_is_counted_as_that_of_its_family():
    """A tagger says that the model is one of XL, whose encoder is another than v1's."""
    for tagger, width in (("", 1024), ("absent.safetensors", 1280)):
        model = {"init": "absent.safetensors", "encoder": "absent.safetensors", "tagger": tagger}
        values = {"run": {"stage": "distill"}, "model": model, "data": {"folder": "unused"}}
        assert file_sizes.reference_encoder(configuration.build(values)).output_dim == width
