"""Draws that belong to samples, FLOPs, compiled networks, optimisers, DeepSpeed's settings, and memory estimates."""

import json
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as recompute

from colorize.sketch.encoder import SketchEncoder
from colorize.unet.config import UNetConfig
from colorize.unet.unet import UNet
from trainer import config as configuration
from trainer.config import ConfigError, System
from trainer.draws import Draws
from trainer.run import loop, memory, prepare, report, throughput, zero
from trainer.stages import activations

from .launch import ROOT

# -- draws


def test_draws_belong_to_samples_not_to_batches():
    whole, first, second = (Draws(7, 3, positions) for positions in (range(4), range(2), range(2, 4)))
    for _ in range(2):  # what is drawn first has no bearing on what is drawn next
        for draw in (
            lambda count, draws: draws.rand((count,)),
            lambda count, draws: draws.randn((count, 3, 2)),
            lambda count, draws: draws.timesteps(1000, count),
        ):
            assert torch.equal(draw(4, whole), torch.cat([draw(2, first), draw(2, second)]))
        shared = [torch.rand(5, generator=draws.shared) for draws in (whole, first, second)]
        assert torch.equal(shared[0], shared[1]) and torch.equal(shared[0], shared[2])


def test_draws_differ_between_seeds_steps_and_samples():
    def row(seed, position):
        return Draws(seed, 0, [position]).randn((1, 8))

    rows = [row(seed, position) for seed in (0, 1) for position in (0, 1, 2**32)]
    assert all(not torch.equal(a, b) for n, a in enumerate(rows) for b in rows[:n])
    shared = [torch.rand(8, generator=Draws(0, step, [0]).shared) for step in range(3)]
    assert not torch.equal(shared[0], shared[1]) and not torch.equal(shared[1], shared[2])


def test_plain_draws_are_those_of_torch():
    ours, theirs = Draws.plain(1), torch.Generator().manual_seed(1)
    assert torch.equal(ours.randn((2, 3)), torch.randn(2, 3, generator=theirs))
    assert torch.equal(ours.timesteps(1000, 2), torch.randint(0, 1000, (2,), generator=theirs))


def test_time_steps_keep_to_their_part_of_the_schedule():
    t = Draws(0, 0, range(500), levels=(0.3, 0.4)).timesteps(1000, 500)
    assert t.min() >= 300 and t.max() < 400 and len(t.unique()) > 80


def test_a_batch_of_another_size_is_refused():
    with pytest.raises(ValueError, match="first dimension is the batch"):
        Draws(0, 0, range(2)).rand((3, 2))


# -- FLOPs


def test_model_flops_leave_out_frozen_networks_and_recomputation():
    frozen, first, second = nn.Linear(8, 16), nn.Linear(16, 32), nn.Linear(32, 4)
    x = torch.randn(10, 8)

    def step(block):
        with torch.no_grad():
            features = frozen(x)
        return block(lambda values: second(first(values).relu()), features).sum()

    forward = 2 * 10 * (16 * 32 + 32 * 4)
    backward = forward + 2 * 10 * 32 * 4  # gradients of both weights, and of what the second layer reads
    plain = throughput.count_model_flops(lambda: step(lambda block, values: block(values)))
    again = throughput.count_model_flops(
        lambda: step(lambda block, values: recompute(block, values, use_reentrant=False))
    )
    assert plain == again == forward + backward


def test_attention_is_counted_on_a_cpu_too():
    q = torch.randn(1, 2, 64, 32, requires_grad=True)
    flops = throughput.count_model_flops(lambda: nn.functional.scaled_dot_product_attention(q, q, q).sum())
    product = 2 * 2 * 64 * 64 * 32
    assert flops == 2 * product + 5 * product  # backward: the weights once more, and four gradients


def test_peak_comes_from_the_configuration_or_the_table(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert throughput.peak_flops(System(peak_tflops=2.5), cpu) == 2.5e12
    assert throughput.peak_flops(System(), cpu) is None
    for name, peak in (("NVIDIA H100 PCIe", 756e12), ("NVIDIA H100 80GB HBM3", 989e12), ("Unheard of", None)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert throughput.peak_flops(System(), gpu) == peak
    assert throughput.peak_flops(System(precision="fp32"), gpu) is None


# -- compiled networks and optimisers


def test_compiled_networks_keep_names_and_numbers():
    torch.manual_seed(0)
    stage = nn.Module()
    stage.model = nn.ModuleDict({"diffusion_model": nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1))})
    stage.schedule = nn.Module()  # without parameters: left alone
    x, names = torch.randn(3, 4), list(stage.state_dict())
    plain = stage.model["diffusion_model"](x)
    throughput.compile_networks(stage, "aot_eager")
    assert stage.model["diffusion_model"]._compiled_call_impl is not None
    assert torch.allclose(stage.model["diffusion_model"](x), plain, atol=1e-6) and list(stage.state_dict()) == names


def test_an_unknown_backend_is_refused():
    with pytest.raises(ConfigError, match="no backend of torch.compile.*inductor"):
        throughput.compile_networks(nn.Linear(1, 1), "fastest")


# -- the log


def test_the_log_of_a_resumed_run_has_every_step_once(tmp_path):
    def run(start, steps):
        reporter = report.Reporter(tmp_path, start, 10, 4, 2, True, utilisation=lambda seconds: 0.5)
        for step in range(start + 1, steps + 1):
            with reporter.waiting():
                pass
            reporter.step(step, {"loss": torch.tensor(float(step))}, 0.1, torch.tensor(1.0), torch.device("cpu"))
        reporter.close()

    run(0, 6)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # the process was killed here
    run(4, 8)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert [line["loss"] for line in lines] == [1.5, 3.5, 5.5, 7.5]  # means since the line before
    assert {"images_per_s", "s_per_step", "data_wait", "utilisation", "peak_gib", "grad_norm"} <= lines[1].keys()
    assert lines[1]["images_per_s"] == pytest.approx(4 / lines[1]["s_per_step"], rel=1e-3)


def test_a_value_that_is_not_finite_ends_the_run_before_anything_is_saved(values, tmp_path):
    values["optimizer"] |= {"lr": 1e30, "warmup": 0, "clip": 0.0}
    with pytest.raises(RuntimeError, match="not a number.*Lower optimizer.lr"):
        loop.train(configuration.build(values))
    assert not list((tmp_path / "run").glob("step-*"))


# -- DeepSpeed


def test_zero_settings_come_from_the_run(values):
    from accelerate.utils.deepspeed import HfDeepSpeedConfig

    values["optimizer"] |= {"batch": 10, "accumulate": 2, "ema": 0.0, "clip": 0.5}
    values["system"] |= {"deepspeed": "zero2", "precision": "bf16"}
    settings = zero.settings(configuration.build(values))
    ours = HfDeepSpeedConfig(settings)
    assert ours.is_zero2() and not ours.is_offload()
    expected = {"train_micro_batch_size_per_gpu": 10, "gradient_accumulation_steps": 2, "gradient_clipping": 0.5,
                "bf16.enabled": True, "fp16.enabled": False, "zero_optimization.stage": 2}  # fmt: skip
    assert {name: ours.get_value(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('{"train_micro_batch_size_per_gpu": 3}', "= 3, the configuration of the run 2"),
        ('{"optimizer": {"params": {"lr": "auto"}}}', "nothing to fill in: optimizer.params.lr"),
        ("{", "cannot be read .*correct it"),
    ],
)
def test_zero_settings_that_cannot_be_are_refused(values, tmp_path, text, hint):
    (tmp_path / "zero.json").write_text(text)
    values["optimizer"] |= {"ema": 0.0}
    values["system"] |= {"deepspeed": str(tmp_path / "zero.json")}
    with pytest.raises(ConfigError, match=hint):
        zero.settings(configuration.build(values))


def test_zero_needs_its_package_and_its_file(values, monkeypatch):
    values["optimizer"] |= {"ema": 0.0}
    values["system"] |= {"deepspeed": "zero2"}
    monkeypatch.setattr(zero.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install deepspeed"):
        prepare.make_accelerator(configuration.build(values))
    values["system"] |= {"deepspeed": "zero7"}
    with pytest.raises(ConfigError, match="one of: zero2"):
        prepare.make_accelerator(configuration.build(values))


def test_the_loop_imports_without_what_is_optional():
    """Also what Windows lacks: resource (memory of a process) and fork."""
    code = (
        "import sys\n"
        "for name in ('deepspeed', 'bitsandbytes', 'resource', 'tensorboard', 'fcntl'): sys.modules[name] = None\n"
        "import trainer.run.loop, trainer.commands.dry_run, trainer.commands.convert\n"
        "assert not any(name.startswith(('comfy', 'nodes')) for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# -- memory


def colorizer(values, **system):
    values["system"] |= {"precision": "bf16", **system}
    values["model"] |= {"init": "v1.safetensors"}
    return configuration.build(values)


def test_activations_are_those_of_a_real_step(values):
    """Counted with shapes alone, and kept by real tensors."""
    config = colorizer(values)
    sizes = UNetConfig(model_channels=32, channel_mult=(1, 1, 1, 2), num_head_channels=16, context_dim=32)
    counted = activations.colorizer_activations(config, sizes, 4)
    unet, sketch_encoder = UNet(sizes), SketchEncoder([32, 32, 32, 64], 32)
    sketches, latents = torch.randn(2, 3, 64, 64), torch.randn(2, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        first, _ = activations.kept_bytes(sketch_encoder, lambda: sketch_encoder(sketches))
        hints = sketch_encoder(sketches)
        second, _ = activations.kept_bytes(unet, lambda: unet(latents, torch.zeros(2), torch.randn(2, 4, 32), hints))
    assert counted == pytest.approx(first + second, rel=0.02)


def test_checkpointing_crops_and_freezing_take_less(values):
    sizes = UNetConfig(model_channels=32, channel_mult=(1, 1, 1, 2), num_head_channels=16, context_dim=32)
    values["data"] |= {"size": 256}
    full = activations.colorizer_activations(colorizer(values), sizes, 4)
    lean = activations.colorizer_activations(colorizer(values, gradient_checkpointing=True), sizes, 4)
    values["data"] |= {"crop": 128}
    crop = activations.colorizer_activations(colorizer(values, gradient_checkpointing=False), sizes, 4)
    assert lean < 0.6 * full and 0.2 * full < crop < 0.4 * full


def test_states_of_the_optimiser_are_counted(values):
    values["optimizer"] |= {"ema": 0.0}
    plain = memory.estimate(configuration.build(values), 1000, 2000, 0)
    assert (plain.weights, plain.gradients, plain.optimizer, plain.average, plain.frozen) == (4000, 4000, 8000, 0, 2000)
    values["optimizer"] |= {"kind": "adamw8bit"}
    assert memory.estimate(configuration.build(values), 1000, 2000, 0).optimizer == 2000
    values["optimizer"] |= {"kind": "adamw"}
    values["system"] |= {"deepspeed": "zero2"}
    shared = memory.estimate(configuration.build(values), 1000, 2000, 0, processes=4)
    assert (shared.weights, shared.gradients, shared.optimizer) == (4000, 1000, 2000)
