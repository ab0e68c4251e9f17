"""The XL benchmarks: a step of our U-Net against ComfyUI's own SDXL U-Net of the same widths and weights."""

from __future__ import annotations

import argparse
import dataclasses

import comfy.sd
import torch

from ..golden.ours import ours
from .measure import paired, timed

TOKENS = 196
PREFIX = "model.diffusion_model."


class Setting:
    """An XL model with random weights of a given width, its stock twin, sketch encoder and background plugin."""

    def __init__(self, options: argparse.Namespace, stock_model, lines):
        """stock_model, lines: of run.py."""
        unet, plugin = ours("colorize.unet.unet"), ours("model_patches.checkpoint.plugin")
        released = ours("colorize.unet.config").XL
        # Tokens as wide in proportion as the released ones, so that projecting them costs the same share of a step.
        context = released.context_dim * options.width // released.model_channels
        config = dataclasses.replace(released, model_channels=options.width, context_dim=context)
        torch.manual_seed(0)
        weights = {PREFIX + key: value for key, value in unet.UNet(config).state_dict().items()}
        markers = {"colorize.num_head_channels": torch.tensor(config.num_head_channels), "v_pred": torch.tensor([])}
        ours("model_patches.model.registration").register()
        self.model = comfy.sd.load_state_dict_guess_config(weights | markers, output_vae=False, output_clip=False)[
            0
        ].model
        self.stock = stock_model(self.model)
        latent = options.size // 8
        self.x, self.y = torch.randn(1, 4, latent, latent), torch.randn(1, config.y_width)
        # A noise level of the schedule itself: between two, ours takes a fractional step and stock rounds.
        self.sigma = self.model.model_sampling.sigmas[600:601]
        self.tokens = torch.randn(1, TOKENS, config.context_dim)

        networks = ours("colorize.background.reference_net")
        background = dataclasses.replace(config, in_channels=networks.INPUT_CHANNELS, y_width=1024)
        own = {f"bg_encoder.{key}": value for key, value in networks.ReferenceNet(background).state_dict().items()}
        self.plugin = plugin.LoadedPlugin.from_state_dict(own, config.num_head_channels, "bench")

        widths = [options.width * mult for mult in config.channel_mult]
        encoder = ours("colorize.sketch.xl_encoder").XLSketchEncoder(widths, options.width)
        control = ours("model_patches.model.sketch_control").SketchControl.from_state_dict(encoder.state_dict())
        self.control = control.set_cond_hint(lines(options.size))

    def step(self, model, control=None, **conditions):
        return model.apply_model(
            self.x, self.sigma, c_crossattn=self.tokens, y=self.y, control=control, transformer_options={}, **conditions
        )

    def split_step(self, banks=None):
        """A step in masked vanilla; the figure is the left half of the picture."""
        masks = torch.zeros(1, 1, *self.x.shape[-2:])
        masks[..., : self.x.shape[-1] // 2] = 1
        options = ours("colorize.unet.split_attention").SplitOptions((None, None), (1.0, 1.0))
        return self.step(
            self.model, colorize_settings=ours("model_patches.payload").StepSettings(split=options),
            colorize_tokens=[self.tokens + 1], colorize_masks=masks, colorize_features=banks,
        )  # fmt: skip

    def banks(self):
        """One reading of a background by the plugin."""
        side = 8 * self.x.shape[-1]
        masks = torch.zeros(1, 1, side, side)
        banks = ours("model_patches.features").Banks
        return banks(self.plugin.read(self.x, masks, masks, (side, side)))


def bench_xl(options: argparse.Namespace, stock_model, lines) -> None:
    setting = Setting(options, stock_model, lines)

    def ours_step():
        return setting.step(setting.model)

    def stock_step():
        return setting.step(setting.stock)

    same = (ours_step() - stock_step()).abs().max().item()
    ratio = paired(ours_step, stock_step, options.repeats)
    print(f"xl: step, ours against stock SDXL: {ratio}; the answers differ by {same:.1e}. Bar: 1.03")

    def with_sketch():
        return setting.step(setting.model, setting.control.get_control(setting.x, setting.sigma, {}, 1, {}))

    ratio = paired(with_sketch, stock_step, options.repeats)
    print(f"xl: step with sketch control against stock without: {ratio}. Bar: 1.08")
    ratio = paired(setting.split_step, ours_step, options.repeats)
    print(f"xl: masked vanilla step against a vanilla step: {ratio}. Bar: 1.10")
    banks = setting.banks()  # builds the network
    seconds, _ = timed(setting.banks)
    ratio = paired(lambda: setting.split_step(banks), setting.split_step, options.repeats)
    print(f"xl: the plugin reads a background once in {seconds:.3f} s; a step with it, against one without: {ratio}")
