"""Case `xl_generate`: from sketch and reference to the picture, through everything an XL checkpoint brings."""

from __future__ import annotations

import torch

from ..ours import ours
from ..registry import Tolerance, case
from .sampling import comfy_sampler, start_noise
from .xl_wrapper import Wrapper, loaded_patcher

STRENGTH = 0.9  # of the reference; the file's description has it
CLIP_HEADS = 2  # of the tiny vision tower, as in `xl_clip_tokens`; neither tensors nor the file tell
TAGGER_STRIDE = 32  # pixels per token of a WD tagger; its window is the whole last level: 448 / 32 = 14
VAE = "first_stage_model."


@case("xl_generate", side="comfy")
def generate(golden, check):
    """Our encoders, conditioning, MODEL and guider, ComfyUI's samplers and autoencoder."""
    wrapper, inputs = Pipeline(golden), golden.inputs
    autoencoder, steps = wrapper.autoencoder(), golden.constructor["steps"]
    positive, negative = wrapper.conditions("", strength=STRENGTH)
    control = {"control": wrapper.sketch_control(), "control_apply_to_uncond": False}
    positive, negative = ([[tokens, options | control] for tokens, options in side] for side in (positive, negative))
    model = loaded_patcher(wrapper.network.model)
    for run, (name, scheduler, scales) in golden.constructor["runs"].items():
        found = comfy_sampler({"sampler": name, "scheduler": scheduler, "steps": steps}, model.model.model_sampling)
        if found is None:
            check.skip(f"{run}.*", f"ComfyUI has no {name} with {scheduler} levels and no randomness")
            continue
        sampler, sigmas, unit_start = found
        noise = start_noise(inputs[f"{run}.noise"], sampler, sigmas, unit_start, model.model)
        guider = ours("model_patches.model.dual_guidance").DualGuider(model, positive, negative, *scales)
        unscaled = guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=0)
        latent = model.model.process_latent_in(unscaled)
        check(f"{run}.latent", latent, relative(golden.outputs, f"{run}.latent"))
        check(f"{run}.image", autoencoder.decode(unscaled), relative(golden.outputs, f"{run}.image"))


def relative(outputs, name: str) -> Tolerance:
    """1e-4 of the largest value, as the authors of the XL files suggest.

    The last digit of a noise level matters: levels off by 2e-7 of themselves move the latent by 4e-5 in the DPM++ run.
    """
    recorded = outputs.get(name)
    return Tolerance() if recorded is None else Tolerance(1e-4 * recorded.abs().max().item())


class Pipeline(Wrapper):
    """A recorded wrapper whose frozen encoders answer themselves."""

    def reference(self, run: str):
        """The REFERENCE of the recorded picture."""
        encoder, tagger = self._encoder(), self._tagger()
        return encoder.encode(self.inputs["reference"], tagger=tagger)

    def _encoder(self):
        managed, files = ours("model_patches.checkpoint.managed").managed, ours("colorize.reference.encoder_file")
        prefix = "cond_stage_model.model."
        weights = {k.removeprefix(prefix): v for k, v in self.golden.weights.items() if k.startswith(prefix)}
        width = weights["vision_model.embeddings.class_embedding"].numel()
        network = files.load_reference_encoder(weights, {"colorize.head_width": str(width // CLIP_HEADS)})
        loaded = ours("model_patches.reference.encoder").LoadedReferenceEncoder
        return loaded(network, managed(network), self.golden.path.name)

    def _tagger(self):
        size = self.sizes["img_embedder_config"]["params"]["input_size"]
        metadata = {"colorize.image_size": str(size), "colorize.window_size": str(size // TAGGER_STRIDE)}
        network = ours("colorize.reference.wd_tagger").WDTagger.from_state_dict(self.golden.weights, metadata)
        no_tags = ours("colorize.reference.tag_lists").TagList((), ())
        patcher = ours("model_patches.checkpoint.managed").managed(network)
        return ours("model_patches.reference.tagger").LoadedTagger(
            network, patcher, no_tags, self.golden.path.name, size
        )

    def autoencoder(self):
        """ComfyUI's autoencoder with the recorded sizes and weights."""
        from comfy.ldm.models.autoencoder import AutoencoderKL

        sizes = self.sizes["first_stage_config"]["params"]
        network = AutoencoderKL(embed_dim=sizes["embed_dim"], ddconfig=sizes["ddconfig"])
        weights = {k.removeprefix(VAE): v for k, v in self.golden.weights.items() if k.startswith(VAE)}
        network.load_state_dict(weights)
        return network.eval()
