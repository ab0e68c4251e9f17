"""The benchmarks themselves, inside a process with ComfyUI and the pack (started by __main__.py)."""

from __future__ import annotations

import argparse
import copy
import os
from collections.abc import Sequence

import comfy.model_base
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

from ..golden.ours import ours
from . import anime, extract, split, xl
from .measure import paired, timed

NAMES = ("unet", "sketch", "split", "injection", "picture", "extract", "xl", "anime")
CFG = 3.0
WIDTH = 128  # of random weights


def lines(size: int) -> torch.Tensor:
    """A sketch (1, 3, size, size) in 0..1: scattered white on black."""
    return (torch.rand(1, 3, size, size) > 0.9).float()


def stock_model(model: comfy.model_base.BaseModel) -> comfy.model_base.BaseModel:
    """The stock ComfyUI model of the same sizes and weights, without region weights."""
    sizes = {key: value for key, value in model.model_config.unet_config.items() if key != "region_ranks"}
    config = type(model.model_config)(sizes)
    config.unet_config.update(sizes)  # the head width of the file wins over the class's
    config.set_inference_dtype(model.get_dtype(), model.manual_cast_dtype)
    device = torch.device("cpu")
    stock = comfy.model_base.BaseModel(config, model.model_type, device=device, unet_model=UNetModel).eval()
    weights = model.diffusion_model.state_dict()
    ours_alone = ours("colorize.names").DISTILLED
    stock.diffusion_model.load_state_dict(
        {key: value for key, value in weights.items() if ".lora_" not in key and key != ours_alone}
    )
    return stock


class Setting:
    """A model of the v1 layout with random weights, and the stock ComfyUI model of the same sizes and weights."""

    def __init__(self, options: argparse.Namespace, region_ranks=None):
        from ..golden import comfy_model

        module = ours("colorize.unet.unet")
        config = ours("colorize.unet.config").UNetConfig(model_channels=options.width, region_ranks=region_ranks)
        torch.manual_seed(0)
        network = module.UNet(config)
        self.model = comfy_model.load_model(network.state_dict(), config.num_head_channels)
        ours_model = self.model.model
        self.stock = stock_model(ours_model)
        latent = options.size // 8
        self.x = torch.randn(1, 4, latent, latent)
        # A noise level of the schedule itself: between two, ours takes a fractional step and stock rounds.
        self.sigma = ours_model.model_sampling.sigmas[600:601]
        self.tokens = torch.randn(1, 256, config.context_dim)
        self.size = options.size
        self.width = options.width

    def step(self, model, control=None):
        return model.apply_model(self.x, self.sigma, c_crossattn=self.tokens, control=control, transformer_options={})

    def sketch_control(self):
        """A CONTROL_NET with a sketch encoder of the U-Net's width and random weights."""
        encoder = ours("colorize.sketch.encoder").SketchEncoder(
            widths=[self.width * mult for mult in (1, 2, 4, 4)], model_channels=self.width
        )
        control = ours("model_patches.model.sketch_control").SketchControl.from_state_dict(encoder.state_dict())
        return control.set_cond_hint(lines(self.size))


def bench_unet(options) -> None:
    setting = Setting(options)
    same = (setting.step(setting.model.model) - setting.step(setting.stock)).abs().max().item()
    ratio = paired(lambda: setting.step(setting.model.model), lambda: setting.step(setting.stock), options.repeats)
    print(f"unet: step, ours against stock: {ratio}; the answers differ by {same:.1e}. Bar: 1.03")


def bench_sketch(options) -> None:
    setting = Setting(options)
    control = setting.sketch_control()

    def with_sketch():
        hints = control.get_control(setting.x, setting.sigma, {}, 1, {})
        return setting.step(setting.model.model, hints)

    def once():
        control.set_cond_hint(control.cond_hint_original)
        control.get_control(setting.x, setting.sigma, {}, 1, {})

    ratio = paired(with_sketch, lambda: setting.step(setting.stock), options.repeats)
    encoder = min(timed(once)[0] for _ in range(3))
    whole = (encoder + options.steps * ratio.a_seconds) / (options.steps * ratio.b_seconds)
    print(f"sketch: step with sketch control against stock without: {ratio}. Bar: 1.05")
    print(f"sketch: the encoder runs once ({encoder:.3f} s); with it, {options.steps} steps are {whole:.3f} of stock")


def random_model(options):
    """Of the v1.5 layout."""
    return Setting(options, region_ranks=(4, 0.5)).model.model


def bench_injection(options) -> None:
    """Steps with a reference of the picture's size, for the two rows of guidance."""
    setting = Setting(options)
    reference_pass, injection = (
        ours("model_patches.reference_pass.reference_pass"),
        ours("model_patches.reference_pass.attention_injection"),
    )
    x, sigma, tokens = (torch.cat([values] * 2) for values in (setting.x, setting.sigma, setting.tokens))
    source = reference_pass.Source(torch.randn_like(setting.x))

    def step(model):
        transformer_options = {"wrappers": model.wrappers, "cond_or_uncond": [0, 1]}
        return model.model.apply_model(x, sigma, c_crossattn=tokens, transformer_options=transformer_options)

    effects = {f"injection, {v}": injection.Injection(source, variant=v) for v in injection.VARIANTS}
    effects["AdaIN"] = ours("model_patches.reference_pass.adain").AdaIN(source)
    for title, effect in effects.items():
        patched = reference_pass.attach(setting.model, effect)
        ratio = paired(lambda m=patched: step(m), lambda: step(setting.model), options.repeats)
        print(f"injection: step with {title}, against a plain step: {ratio}. Bar: 2.10")


def bench_picture(options) -> None:
    """Everything of the quickstart's graph between files and picture, against sampling alone with a stock U-Net."""
    model, vae, control, _ = ours("model_patches.checkpoint.loading").load_checkpoint(options.checkpoint)
    encoder = ours("model_patches.reference.encoder").load_encoder(options.encoder)
    ours_model = model.model
    stock = stock_model(ours_model)
    stock_patcher = comfy.model_patcher.ModelPatcher(stock, model.load_device, model.offload_device)

    size = options.size
    reference = torch.rand(1, 3, size, size) * 2 - 1
    sketch = lines(size)
    latent = torch.zeros(1, 4, size // 8, size // 8)
    noise = comfy.sample.prepare_noise(latent, 0)
    width = ours_model.context_dim
    count = encoder.encoder.token_count - 1

    def sample(patcher, tokens, extra):
        positive, negative = [[tokens, extra]], [[torch.zeros_like(tokens), extra]]
        return comfy.sample.sample(
            patcher,
            noise,
            options.steps,
            CFG,
            "dpmpp_2m",
            "normal",
            positive,
            negative,
            latent,
            disable_pbar=True,
            seed=0,
        )

    def picture():
        tokens = encoder.encode(reference).local_tokens
        hint = control.copy().set_cond_hint(sketch)
        return vae.decode(sample(model, tokens, {"control": hint, "control_apply_to_uncond": False}))

    def plain():
        return vae.decode(sample(stock_patcher, torch.randn(1, count, width), {}))

    ratio = paired(picture, plain, max(3, options.repeats // 3), warmup=1)
    print(f"picture: {size}x{size}, {options.steps} steps, cfg {CFG}, whole graph against stock U-Net and VAE alone")
    print(f"picture: {ratio}. Bar: 30 s on 2 cores")


def bench_extract(options) -> None:
    """Extract Sketch against the released route around the same network: with it (full size), and without its time."""
    extractors, nodes = ours("model_patches.inputs.extractors"), ours("nodes.extract")
    folding = ours("colorize.sketch.extractors.folding")
    to_model = ours("colorize.pictures.images").comfy_image_to_model
    picture = extract.squashed((torch.rand(16, 16, 3) * 255).byte().numpy(), 1024)  # smooth colours
    image = torch.from_numpy(picture.copy())[None].float() / 255
    for kind in ours("colorize.sketch.extractors").NETWORKS:
        if kind.title not in extract.ROUTES:
            continue
        silent = type("Silent", (kind,), {"forward": lambda self, x: x})()  # the same ways to and from it
        for name, network in (("around the network", silent), ("whole", kind())):
            network.eval()
            mine = folding.for_inference(copy.deepcopy(network), torch.device("cpu"))  # as Load Line Extractor does
            patcher = comfy.model_patcher.CoreModelPatcher(mine, torch.device("cpu"), torch.device("cpu"))
            loaded = extractors.LoadedLineExtractor(mine, patcher, "bench")

            def released(network=network, route=extract.ROUTES[kind.title]):
                return route(network, picture, options.side)

            def drawing(variant, loaded=loaded):
                return nodes.extract_sketch(to_model(image), loaded, "auto", options.side, variant)

            error = (1 - 2 * drawing("released")[..., 0] - released()[:, 0]).abs().max().item()
            for variant in ("paper", "released"):
                ratio = paired(lambda v=variant: drawing(v), released, options.repeats, warmup=1)
                print(f"extract: {kind.title}, {name}, {variant} against the released route: {ratio}. Bar: 1.00")
            if network is not silent:  # silent answers lie about the threshold of faint lines, and jump there
                print(f"extract: {kind.title}: the drawings differ by {error:.1e} of a range of 2")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Ratios of interleaved runs.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(NAMES)} (default: all)")
    parser.add_argument(
        "--width",
        type=int,
        help=f"channels of the first level (default {WIDTH}; split: the bundled model; released: 320)",
    )
    parser.add_argument(
        "--size", type=int, help="side of the picture in pixels, a multiple of 64 (default: 256, xl 1024)"
    )
    parser.add_argument("--repeats", type=int, default=15, help="pairs of runs")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps of a picture")
    parser.add_argument("--side", type=int, default=768, help="working size of extract in pixels, a multiple of 16")
    parser.add_argument("--checkpoint", help="model of the picture benchmark (default: the bundled small model)")
    parser.add_argument("--encoder", help="its reference encoder")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    torch.set_num_threads(options.threads)
    given, width = options.size, options.width
    benches = {
        "unet": bench_unet,
        "sketch": bench_sketch,
        "split": lambda options: split.bench_split(options, lambda: random_model(options)),
        "injection": bench_injection,
        "picture": bench_picture,
        "extract": bench_extract,
        "xl": lambda options: xl.bench_xl(options, stock_model, lines),
        "anime": anime.bench_anime,
    }
    with torch.inference_mode():
        for name in options.names or NAMES:
            options.size = given or (1024 if name == "xl" else 256)
            options.width = width or (None if name == "split" else WIDTH)
            benches[name](options)
