"""The sections of a configuration that say how is learned: losses and the optimiser, every key with its meaning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from .section import Amount, ConfigError, Count, Positive, Precision, Probability, Range, Section, Share, Weight

LEAST_FACTOR = 0.01
"""Of an optimiser that finds its rate: less is a learning rate that was meant for another one."""

SEPARATE = ("adamw", "adamw8bit", "adafactor")
"""Optimisers that step one parameter whatever the others do."""


@dataclass(frozen=True)
class Loss(Section):
    reference_drop: Probability = 0.5
    """Probability that a sample trains without its reference."""
    reference_drop_end: Annotated[
        float, Range(high=1, what="a probability, or negative to keep loss.reference_drop")
    ] = -1.0
    """Where reference_drop arrives at the end of the run, linearly (v1.5: from 0.8 to 0.5); negative keeps it."""
    dual_condition: Weight = 0.0
    """Weight of the second error of dual-conditioned training (stage v1; paper: 4), which costs a second forward pass;
    0 switches it off."""
    background_bleach: Probability = 0.0
    """Probability that picture, sketch and reference of a sample have a white background (stage v1_5)."""
    latent_shuffle: Probability = 0.0
    """Probability that a batch has its references shuffled (stage v1)."""
    shuffle_variant: Literal["tokens", "patches"] = "tokens"
    """What changes places. "tokens": the encoder's local tokens, as in the v1 paper; cross-attention does not see the
    order of its tokens, so this trains the same model (see losses/latent_shuffle.py). "patches": the patches of the
    reference before the encoder, which does change what the model is told (ours)."""
    noisy_reference: Probability = 0.0
    """Probability that a batch has noise added to its tokens (noisy training, eq. 3)."""
    noisy_variant: Literal["paper", "released"] = "released"
    """Which step's noise the tokens get: see losses/noisy_reference.py."""
    offset_noise: Weight = 0.0
    """Per-channel noise offset; the released configs use 0.05."""
    min_snr_gamma: Weight = 0.0
    """Clamp of the min-SNR weight; 0 switches the weights off, 5 is the usual value."""
    weighting: Literal["none", "debiased", "p2"] = "none"
    """Weights of samples by their noise, in the place of min-SNR's: debiased favours much noise, p2 turns away from
    little of it. No paper of these models uses them; not measured."""
    p2_gamma: Weight = 1.0
    """Exponent of weighting = "p2"; the paper tries 0.5 and 1."""
    pyramid_noise: Annotated[float, Range(0, 0.99, "a factor from 0 up to 0.99")] = 0.0
    """Multi-resolution noise: factor from each coarser noise to the next that is added; 0 adds none, 0.3 is usual when
    a model was not trained so from the start. Helps with pictures that are dark or bright as a whole."""
    input_perturbation: Weight = 0.0
    """Noise on the latents beyond what the network is asked for, as sampling has it; the paper takes 0.1."""
    background_weight: Share = 1.0
    """Weight of the error outside the figure mask: below 1 the figure counts for more, at 0 alone (masked loss; stages
    v1 and xl then read mask/)."""
    huber: Weight = 0.0
    """Error from which on it counts linearly instead of squared (Huber's loss), so that single places weigh less; 0
    switches it off. The colourisers' errors are mostly below 1."""
    sketch_drop: Probability = 0.0
    """Probability that a level of the sketch's features is left out, drawn for every level and sample by itself (XL
    stages; released: 0.1)."""
    reference_inpaint: Probability = 0.0
    """Probability that a sample's reference loses, to white, what lies inside another picture's figure mask (XL stages;
    released: 0.1)."""
    reduction: Literal["mean", "sum"] = "mean"
    """Of the squared error of stage animediffusion; the released trainer sums over batch, channels and pixels."""
    chain_steps: Annotated[int, Range(1, 999, "a number from 1 to 999")] = 10
    """Sampling steps of the chain that stage animediffusion_2 trains."""
    chain_eta: Share = 0.0
    """Share 0..1 of fresh noise in the steps of that chain (paper: 0, released trainer: 1)."""
    chain_start: Literal["picture", "reference", "noise"] = "picture"
    """What that chain starts from: the picture made noise by forward_walk (paper), its warped reference made noise so
    (what inference has), or plain noise."""
    forward_walk: Literal["paper", "released"] = "paper"
    """How stage animediffusion_2 makes noise of a picture: by the network at every step (paper), or starting with
    random noise and leaving the time step out (released trainer)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weighting != "none" and self.min_snr_gamma:
            raise ConfigError(
                f'loss.weighting = "{self.weighting}" and loss.min_snr_gamma both weigh samples by their noise: set '
                'loss.min_snr_gamma = 0, or loss.weighting = "none".'
            )


@dataclass(frozen=True)
class Gram(Section):
    """The loss that keeps the structure of the features free of the reference (stage xl; losses/gram.py)."""

    weight: Weight = 0.0
    """Weight of the loss (released: 1), which costs about half a forward and backward pass; 0 switches it off."""
    start: Annotated[float, Range(0, 1, "a share of the run between 0 and 1")] = 0.33
    """Share of the run after which it begins (paper: 0.33)."""
    variant: Literal["mse", "frobenius", "kl", "ranking", "bce"] = "mse"
    """How two Gram matrices are compared: mean squared difference of cosines (released), or the paper's squared
    Frobenius norm of plain products, which is larger by orders of magnitude and wants a weight of its own."""
    temperature: Positive = 1.0
    """Of variant kl."""
    blocks: Literal["last", "released", "levels"] = "last"
    """Which transformer blocks are compared: the last of the lowest resolution (paper), those before them, or the last
    of every resolution. The third leaves the reference no way around the loss, and costs more (docs/LOG.md)."""
    other: Literal["dataset", "batch"] = "dataset"
    """Where the other reference comes from: a picture of another group of the data set (paper), which is encoded too,
    or the next sample of the batch (released), which needs optimizer.batch of at least 2."""
    normalise_rows: bool = False
    """Scale the rows of the matrices to length 1 as well."""
    standardise: bool = False
    """Standardise every channel over the picture first."""
    figure_only: bool = False
    """Compare places inside the figure mask only; reads mask/."""
    train_projection: bool = True
    """Let the gradient of the misaligned branch reach the token projection."""


@dataclass(frozen=True)
class Distill(Section):
    """What a student of few steps learns from the model of model.init (stage distill; losses/distillation.py)."""

    method: Literal["trajectory", "consistency"] = "trajectory"
    """How it learns. "trajectory": to land in one step where the teacher's solver lands after several (progressive
    distillation, with the steps in between skipped at once). "consistency": to land where it would from the teacher's
    next step (consistency distillation in segments), which costs fewer passes a step and more steps."""
    steps: Annotated[int, Range(1, 16, "a number from 1 to 16")] = 2
    """Steps that the student is made for: the segments that the noise schedule is cut into."""
    teacher_steps: Annotated[int, Range(1, 200, "a number from 1 to 200")] = 4
    """Steps of the teacher's solver over the whole schedule; rounded up to a multiple of `steps`. Choose the number
    with which the teacher itself is best: more steps are not always better (docs/LOG.md)."""
    solver: Literal["ddim", "dpmpp_2m"] = "ddim"
    """The teacher's solver (method trajectory): DDIM, which is ComfyUI's euler, or DPM-Solver++ (2M)."""
    guidance: Annotated[float, Range(1, 30, "a scale from 1 (none) to 30")] = 2.0
    """Reference guidance of the teacher, which the student has learned when it is done: it is then run without."""
    own_starts: Share = 0.5
    """Share of samples that begin a segment where the student itself arrived, instead of at a noisy picture, so that it
    mends its own errors."""
    truth: Share = 0.0
    """Share of the steps that learn from the true pictures; in the others the teacher is asked, whose errors a student
    that learns from it alone shares. Set loss.huber: squared, the truth teaches means of likely colours."""
    modes: tuple[str, ...] = ("vanilla",)
    """Modes that are taught, one drawn per batch: vanilla, masked, bg2fig, fig2fig. All but vanilla read masks."""
    lora_rank: Amount = 0
    """Rank of a second file, NAME-lora.safetensors: what the student learned as a LoRA for ComfyUI's own loader; 0
    writes none."""


@dataclass(frozen=True)
class AdapterSettings(Section):
    """Small changes of a frozen U-Net in the place of new weights (stages v1, v1_5, xl, distill; models/adapters.py).
    model.init is frozen, and the run exports a file for ComfyUI's LoRA loaders (`convert --merge`: a whole model)."""

    kind: Literal["none", "lora", "dora", "loha", "lokr"] = "none"
    """Form of the change. dora learns the size of every input channel apart and takes more time; loha reaches a higher
    rank with twice the values, lokr has the fewest."""
    rank: Count = 16
    """Channels of a change; a layer that has fewer gets as many as it has."""
    alpha: Weight = 0.0
    """Over `rank` it is the factor on the change; 0 is `rank`, a factor of 1."""
    layers: Literal["all", "transformers", "attention"] = "all"
    """Which layers of the U-Net: every linear and convolution layer, those of the transformers, or of attention."""
    frozen: Precision = "fp32"
    """Type in which the weights of U-Net and sketch encoder lie in memory; half of it is what system.precision of the
    same name multiplies with anyway."""


@dataclass(frozen=True)
class Optimizer(Section):
    kind: Literal["adamw", "adamw8bit", "adafactor", "lion", "prodigy", "dadapt", "schedule_free"] = "adamw"
    """adamw8bit keeps the moments in 8 bits, a quarter of the memory (package bitsandbytes, a GPU); adafactor keeps
    sums of rows and columns. lion: a third to a tenth of AdamW's `lr`, betas [0.9, 0.99]. prodigy and dadapt find the
    rate: lr = 1. schedule_free needs no decay, and averages by itself. The last four are of pytorch-optimizer."""
    fused: bool = True
    """One kernel for the whole update, where the device has it."""
    fused_backward_pass: bool = False
    """Step each parameter, and free its gradient, as soon as the backward pass has it: the same numbers without the
    memory of all gradients together. Not with accumulation, clipping, several processes or fp16."""
    lr: Weight = 1e-5
    """Peak learning rate."""
    betas: tuple[float, ...] = (0.9, 0.999)
    """Decay rates of AdamW's moments."""
    weight_decay: Weight = 0.01
    """Decoupled weight decay of AdamW."""
    warmup: Amount = 0
    """Steps over which the learning rate rises from 0."""
    decay: Literal["constant", "cosine", "cosine_restarts", "linear", "polynomial", "rex"] = "constant"
    """Shape of the learning rate after the warm-up; all but constant end at a hundredth of the peak. See
    run/schedules.py."""
    cycles: Count = 2
    """Cosines in a row, for decay = "cosine_restarts"."""
    power: Positive = 2.0
    """Exponent, for decay = "polynomial"; 1 is linear."""
    lowest_lr: float = -1.0
    """Learning rate at which the warm-up starts and the decay ends; negative: 0 and a hundredth of the peak."""
    rates: tuple[str, ...] = ()
    """Learning rates of parts over `lr`: "control_encoder.=0.5" halves it for parameters whose names begin so. The
    first that fits counts, the rest has `lr`."""
    clip: Weight = 1.0
    """Largest norm of the gradient; 0 switches clipping off."""
    batch: Count = 8
    """Samples of one process and micro step."""
    accumulate: Count = 1
    """Micro steps per optimiser step."""
    ema: Annotated[float, Range(0, 1, "a decay from 0 up to 1, such as 0.9999")] = 0.0
    """Decay of the moving average of the weights; 0 switches it off, 0.9999 is the usual value."""
    ema_device: Literal["same", "cpu"] = "same"
    """Where the moving average lives; cpu frees accelerator memory."""
    freeze: tuple[str, ...] = ()
    """Prefixes of parameter names that are not trained."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"optimizer.betas are two numbers from 0 up to, not including, 1, not {self.betas}.")
        if self.ema == 1:
            raise ConfigError("optimizer.ema = 1 keeps the first weights for ever: set 0.9999, or 0 for no average.")
        self._check_kind()
        self._check_fused_backward()
        self.shares()

    def _check_fused_backward(self) -> None:
        """ConfigError for what needs all gradients together, or several backward passes."""
        if not self.fused_backward_pass:
            return
        why = "optimizer.fused_backward_pass frees each gradient as soon as it is there"
        if self.accumulate > 1:
            raise ConfigError(f"{why}: set optimizer.accumulate = 1 (a larger optimizer.batch does the same).")
        if self.clip:
            raise ConfigError(f"{why}, and clipping needs the norm of all of them: set optimizer.clip = 0.")
        if self.kind not in SEPARATE:
            kinds = " or ".join(f'"{kind}"' for kind in SEPARATE)
            raise ConfigError(
                f'{why}; optimizer.kind = "{self.kind}" counts a step for all parameters together: set it to {kinds}.'
            )

    def _check_kind(self) -> None:
        """ConfigError for keys that another optimiser reads."""
        finds_rate, named = self.kind in ("prodigy", "dadapt"), f'optimizer.kind = "{self.kind}"'
        if finds_rate and self.lr < LEAST_FACTOR:
            raise ConfigError(
                f"{named} finds the learning rate, and optimizer.lr is a factor on it: set 1, not {self.lr}."
            )
        if finds_rate and self.rates:
            raise ConfigError(f"{named} finds one learning rate for all parts: clear optimizer.rates.")
        if self.kind == "schedule_free" and self.ema:
            raise ConfigError(f"{named} averages the weights by itself: set optimizer.ema = 0.")
        if self.kind == "schedule_free" and self.decay != "constant":
            raise ConfigError(f'{named} stands in the place of a schedule: set optimizer.decay = "constant".')
        if self.kind == "schedule_free" and self.betas[0] == 0:
            raise ConfigError(f"{named} needs a first number above 0 in optimizer.betas, such as 0.9.")

    def shares(self) -> dict[str, float]:
        """Beginning of parameter names -> learning rate over `lr`. ConfigError where `rates` says something else."""
        found = {}
        for rate in self.rates:
            prefix, _, factor = rate.partition("=")
            try:
                found[prefix.strip()] = share = float(factor)
            except ValueError:
                share = -1.0
            if not prefix.strip() or not 0 <= share < math.inf:
                raise ConfigError(f'optimizer.rates holds {rate!r}; write "beginning of a name=factor", 0 or more.')
        return found
