"""Cases `ad_*` of AnimeDiffusion: network, schedule, walks, losses of both phases, warp and pictures.

(`ad_xdog` stands with the other line extractors.)
"""

from __future__ import annotations

import numpy
import torch

from ..ours import ours
from ..registry import Tolerance, case
from .extractors import compare_stats

PACKAGE = "colorize.animediffusion"
CHAIN = Tolerance(1e-3)  # ten steps of a network; the recorded values are off by up to 1e-4 themselves
GRADIENT = 0.05  # of the gradient's standard deviation, as the facts suggest for ten differentiated steps


def schedule():
    return ours(f"{PACKAGE}.schedule").AnimeSchedule()


def network_of(golden):
    heads = golden.constructor.get("attention_head", 4)
    return ours(f"{PACKAGE}.unet").load_network(golden.weights, heads)


def predictor(network, cond=None, timed=True):
    """predict(x, t) -> noise, for a fixed condition; timed False forgets the step as one released call does."""

    def predict(x, t):
        x = x if cond is None else torch.cat([x, cond], dim=1)
        return network(x, t if timed else None)

    return predict


@case("ad_schedule")
def tables(golden, check):
    module = ours(f"{PACKAGE}.schedule")
    for group in sorted({name.split(".")[0] for name in golden.outputs}):
        for name, table in module.AnimeSchedule(int(group.removeprefix("T"))).buffers().items():
            check(f"{group}.{name}", table)


@case("ad_time_embedding")
def time_embedding(golden, check):
    module = ours(f"{PACKAGE}.unet")
    for name in golden.outputs:
        check(name, module.time_features(golden.inputs["t"], int(name.removeprefix("dim"))))


@case("ad_unet", "ad_unet_cbam", "ad_unet_full_recipe")
def unet(golden, check):
    network = network_of(golden)
    given = golden.constructor
    sizes = (given["channel_base"], tuple(given["channel_mult"]), given["n_res_blocks"], given["cbam"])
    config = network.config
    if (config.channels, config.channel_mult, config.residual_blocks, config.cbam) != sizes:
        raise ValueError(f"read {config} from the weights, recorded with {given}")
    x, t = golden.inputs["x"], golden.inputs["t"]
    answer = compare_stats(golden, check, _Timed(network, t), x, Tolerance(1e-4, 1e-5))
    check("y", answer)
    check("y_no_t", network(x))
    features = ours(f"{PACKAGE}.unet").time_features(t, config.channels)
    check("t_emb", network.time_embedding(features))


class _Timed:
    """A network with its steps given, as the comparison of statistics calls it."""

    def __init__(self, network, t):
        self.network, self.t = network, t

    def named_modules(self):
        return self.network.named_modules()

    def __call__(self, x):
        return self.network(x, self.t)


@case("ad_q_sample")
def q_sample(golden, check):
    x0, noise = golden.inputs["x0"], golden.inputs["noise"]
    check("x_t", schedule().add_noise(x0, noise, golden.inputs["t"]))
    for name in check.names("unseen_t*"):
        step = int(name.removeprefix("unseen_t"))
        check(name, schedule().add_noise(x0, noise, torch.full((len(x0),), step)))


@case("ad_p_sample")
def p_sample(golden, check):
    sampling, inputs = ours(f"{PACKAGE}.sampling"), golden.inputs
    for name in check.names("eta*"):
        eta = float(name.removeprefix("eta"))
        check(
            name, sampling.ancestral_step(schedule(), inputs["x_t"], inputs["eps"], inputs["t"], inputs["noise"], eta)
        )


@case("ad_ddim_step")
def ddim_step(golden, check):
    """One predictor that always answers eps, ten steps; the states after the first and the last are recorded."""
    sampling, inputs = ours(f"{PACKAGE}.sampling"), golden.inputs
    steps = len(numbered(inputs, "noise_"))
    for run in sorted({name.rpartition(".")[0] for name in golden.outputs}):
        eta, x = float(run.removeprefix("eta")), inputs["x_t"]
        for index, (t, t_next) in enumerate(sampling.descending(schedule(), steps)):
            x = sampling.ddim_step(schedule(), x, inputs["eps"], t, t_next, eta, inputs[f"noise_{index}"])
            check(f"{run}.step_t{t}", x)


def numbered(tensors, prefix):
    """The tensors `prefix`0, `prefix`1, ... as a list."""
    found = []
    while f"{prefix}{len(found)}" in tensors:
        found.append(tensors[f"{prefix}{len(found)}"])
    return found


@case("ad_ddim_10steps")
def ddim_loop(golden, check):
    sampling, inputs = ours(f"{PACKAGE}.sampling"), golden.inputs
    noises = numbered(inputs, "noise_")
    times = sampling.descending(schedule(), len(noises))
    check("t_sequence", torch.tensor([t for t, _ in times]))
    predict = predictor(network_of(golden), inputs["cond"])
    for run in sorted({name.split(".")[0] for name in golden.outputs if "." in name}):
        answers, states = [], []

        def listening(x, t, answers=answers, states=states):
            states.append(x)
            answers.append(predict(x, t))
            return answers[-1]

        eta = float(run.removeprefix("eta"))
        states.append(sampling.sample_ddim(listening, inputs["x_T"], schedule(), len(noises), eta, lambda i: noises[i]))
        for index in range(len(noises)):
            check(f"{run}.eps_{index}", answers[index], CHAIN)
            check(f"{run}.x_{index}", states[index + 1], CHAIN)


@case("ad_ddim_inversion")
def inversion(golden, check):
    sampling, inputs = ours(f"{PACKAGE}.sampling"), golden.inputs
    network = network_of(golden)
    steps = len(golden.outputs["t_sequence"])
    check("t_sequence", torch.tensor([t for _, t in reversed(sampling.descending(schedule(), steps))]))
    runs = {
        "released": predictor(network, inputs["cond"], timed=False),
        "with_t": predictor(network, inputs["cond"]),
    }
    first = golden.more["weights_uncond"]
    unconditional = ours(f"{PACKAGE}.unet").load_network(
        golden.weights | first, golden.constructor.get("attention_head", 4)
    )
    runs["uncond"] = predictor(unconditional)
    for name, predict in runs.items():
        walked = sampling.deterministic_forward(predict, inputs["x0"], schedule(), steps, "released", inputs["noise_0"])
        check(f"x_T_{name}", walked, CHAIN)


@case("ad_phase1_loss")
def phase1(golden, check):
    losses, inputs = ours("trainer.losses.animediffusion"), golden.inputs
    network = network_of(golden)
    given = inputs["x0"], inputs["noise"], inputs["t"]
    with torch.enable_grad():
        answer = losses.predicted_noise(predictor(network, inputs["cond"]), schedule(), *given)
        check("eps_pred", answer)
        check("loss_mean", losses.squared_error(answer, inputs["noise"], "mean")[None])
        loss = losses.squared_error(answer, inputs["noise"], "sum")
        check("loss_sum", loss[None], Tolerance(1e-4, 1e-6))
        loss.backward()
    compare_gradients(golden, check, network, "grad.", 1e-4)


@case("ad_phase2_loss")
def phase2(golden, check):
    losses, inputs = ours("trainer.losses.animediffusion"), golden.inputs
    noises = numbered(inputs, "noise_")
    for run, eta in (("eta0", 0.0), ("released_eta1", 1.0)):
        network = network_of(golden)
        with torch.enable_grad():
            result = losses.reconstructed(
                predictor(network, inputs["cond"]),
                schedule(),
                inputs["x_T"],
                len(noises),
                eta,
                lambda index: noises[index],
            )
            check(f"{run}.x_gen", result, CHAIN)
            loss = losses.squared_error(result, inputs["x0"], "mean")
            check(f"{run}.loss", loss[None], CHAIN)
            if eta == 1:  # a method that nothing calls: the same chain with the error summed
                summed = losses.squared_error(result, inputs["x0"], "sum")
                check("fine_tune_method_eta1_sum", summed[None], Tolerance(0.1, 1e-4))
            loss.backward()
        compare_gradients(golden, check, network, f"{run}.grad.", GRADIENT)


def compare_gradients(golden, check, network, prefix, share):
    """Recorded gradients within `share` of their standard deviation."""
    parameters = dict(network.named_parameters())
    for name in check.names(f"{prefix}*"):
        spread = golden.outputs[name].std().item()
        check(name, parameters[name.removeprefix(prefix)].grad, Tolerance(share * spread))


@case("ad_tps")
def warp(golden, check):
    module = ours("trainer.data.diagonal_warp")
    picture = golden.inputs["image"].movedim(-1, 0)[None]
    height, width = picture.shape[-2:]
    for number in sorted({name.split(".")[0] for name in golden.outputs}):
        source, target = (golden.inputs[f"{number}.{name}"][None] for name in ("src", "dst"))
        spline = module.solve(source, target)
        relative = Tolerance(1e-4, 1e-5)  # a float32 solve of a system whose weights reach 50
        check(f"{number}.theta_full", spline[0], relative)
        check(f"{number}.theta_reduced", spline[0, 1:], relative)
        positions = module.source_positions(spline, target, height, width)
        check(f"{number}.grid", positions[0])
        pixels = Tolerance(1e-3)  # of a pixel
        check(f"{number}.mapx", positions[0, ..., 0] * width, pixels)
        check(f"{number}.mapy", positions[0, ..., 1] * height, pixels)
        check(f"{number}.warped", module.warp(picture, source, target)[0].movedim(0, -1), Tolerance(1.0))
    check.skip("*.warped_opencv4", "the same warp with positions rounded to 1/32 pixel, as OpenCV 4 does")


@case("ad_dataset")
def pictures(golden, check):
    from PIL import Image

    decode, module = ours("trainer.data.decode"), ours("trainer.data.diagonal_warp")
    size = golden.config["size"]

    def item(values):
        cut = torch.from_numpy(
            numpy.array(decode.cover(Image.fromarray(values.numpy()), size, resample=decode.BILINEAR))
        )
        return (cut[None] if cut.ndim == 2 else cut.movedim(-1, 0)).float() / 127.5 - 1

    level = Tolerance(1 / 127.5 + 1e-6)
    reference = golden.inputs["reference"]
    points = (golden.inputs[name][None] for name in ("src", "dst"))
    warped = module.warp(reference.movedim(-1, 0)[None], *points)[0].movedim(0, -1).contiguous()
    check("reference", item(reference))
    check("undistorted", item(reference))
    check("distorted", item(warped), level)
    grey = torch.from_numpy(numpy.array(Image.fromarray(golden.inputs["condition_rgb"].numpy()).convert("L")))
    check("condition", item(grey))


@case("ad_lr")
def learning_rate(golden, check):
    """lr 1e-4, warm-up of 1 epoch from 1e-8, cosine down to 1e-8 at epoch 200, at fractional epochs."""
    optimizer = ours("trainer.config").Optimizer(lr=1e-4, lowest_lr=1e-8, warmup=1000, decay="cosine")
    rate = ours("trainer.run.loop").learning_rate
    epochs = golden.inputs["f64_epoch"].tolist()
    rates = [rate(optimizer, epoch * 1000, 200 * 1000) for epoch in epochs]  # 1000 steps an epoch
    check("f64_lr", torch.tensor(rates, dtype=torch.float64), Tolerance(1e-12, 1e-6))
