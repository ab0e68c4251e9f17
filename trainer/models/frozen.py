"""The networks a stage does not train but encodes with: read from their files when first used, and only then.

A run whose encodings are all in the cache (`data.cache_folder`) never has them in memory, but for the moments in which
it draws a sample sheet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

import torch

from colorize.reference.encoder_file import load_reference_encoder
from colorize.reference.vision import ReferenceEncoder
from colorize.reference.wd_tagger import WDTagger
from trainer.config import Config, System
from trainer.draws import Draws
from trainer.models import autoencoder, checkpoint
from trainer.models.autoencoder import Autoencoder
from trainer.models.colorizer import read_encoder
from trainer.models.lean_layers import lean
from trainer.models.usable import refuses_other_files
from trainer.models.xl_colorizer import read_tagger, tagger_tokens, tagger_width

Network = TypeVar("Network", bound=torch.nn.Module)


class OnDemand(Generic[Network]):
    """A network that `read` gives, on a device; `channels_last` as its memory format.

    system: in which form its weights lie in memory (models/lean_layers.py); None: whole.
    """

    def __init__(
        self,
        read: Callable[[], Network],
        device: torch.device,
        channels_last: bool,
        system: System | None = None,
    ) -> None:
        self._read, self._device, self._channels_last, self._system = read, device, channels_last, system
        self._network: Network | None = None

    @property
    def loaded(self) -> bool:
        """Whether the network is in memory."""
        return self._network is not None

    @property
    def network(self) -> Network:
        """The network, read now if it is not in memory."""
        if self._network is None:
            with torch.random.fork_rng(devices=[]):  # building it draws numbers: the run must not depend on when
                network = self._read()
            if self._system is not None:
                network = lean(network.requires_grad_(False), self._system, self._device)
            network = network.to(self._device)
            self._network = network.to(memory_format=torch.channels_last) if self._channels_last else network
        return self._network

    def release(self) -> None:
        """Let the memory go; the next use reads the file again."""
        self._network = None


class FrozenAutoencoder(OnDemand[Autoencoder]):
    """An autoencoder.Autoencoder by its methods."""

    def __init__(self, path: str, device: torch.device, channels_last: bool, system: System | None = None) -> None:
        super().__init__(lambda: autoencoder.load(path), device, channels_last, system)

    def moments(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.network.moments(pictures)

    def encode(self, pictures: torch.Tensor, draws: Draws | None = None) -> torch.Tensor:
        return self.network.encode(pictures, draws)

    def decode(self, latents: torch.Tensor, scale: float = autoencoder.SCALE) -> torch.Tensor:
        return self.network.decode(latents, scale)

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return self.network.tensors


class FrozenReferenceEncoder(OnDemand[ReferenceEncoder]):
    """A ReferenceEncoder by its methods; its sizes are read from the file's header alone."""

    def __init__(self, path: str, device: torch.device, channels_last: bool, system: System | None = None) -> None:
        super().__init__(lambda: read_encoder(path), device, channels_last, system)
        sizes = encoder_sizes(path)
        self.output_dim, self.token_count, self.image_size = sizes.output_dim, sizes.token_count, sizes.image_size

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        return self.network.encode(image)


class FrozenTagger(OnDemand[WDTagger]):
    """A WD tagger's patch features; its sizes are read from the file's header alone."""

    def __init__(self, path: str, device: torch.device, system: System | None = None) -> None:
        super().__init__(lambda: read_tagger(path), device, channels_last=False, system=system)
        tensors, _ = tensor_shapes(Path(path))
        self.output_dim = tagger_width(tensors, path)

    def tokens(self, references: torch.Tensor) -> torch.Tensor:
        """References (B, 3, H, W) in [-1, 1] -> (B, L, W)."""
        return tagger_tokens(self.network, references)


class FrozenClip(FrozenReferenceEncoder):
    """A second CLIP tower in the place of the tagger, by the tagger's methods."""

    def __init__(self, path: str, device: torch.device, system: System | None = None) -> None:
        super().__init__(path, device, channels_last=False, system=system)

    def tokens(self, references: torch.Tensor) -> torch.Tensor:
        """References (B, 3, H, W) in [-1, 1] -> (B, L, W), the class token first."""
        return self.encode(references)


SecondTower = FrozenTagger | FrozenClip


def second_tower(config: Config, device: torch.device) -> SecondTower:
    """What XL reads beside the tokens of the first CLIP tower."""
    kind = FrozenClip if config.model.second_tower == "clip" else FrozenTagger
    return kind(config.model.tagger, device, config.system)


@refuses_other_files("The file of the reference encoder")
def encoder_sizes(path: str) -> ReferenceEncoder:
    """A reference encoder without its weights: of a safetensors file only the header is read."""
    return load_reference_encoder(*tensor_shapes(Path(path)), device="meta")


def autoencoder_file(config: Config) -> str:
    """The file with the autoencoder of a run."""
    return config.model.vae or config.model.init or config.model.init_from


def frozen_encoders(config: Config, device: torch.device) -> tuple[FrozenAutoencoder, FrozenReferenceEncoder]:
    """Those of a run: in memory from the start, or with data.cache_folder only when needed."""
    channels_last, system = config.system.channels_last, config.system
    trained = config.model.train_encoder
    encoders = (
        FrozenAutoencoder(autoencoder_file(config), device, channels_last, system),
        FrozenReferenceEncoder(config.model.encoder, device, channels_last, None if trained else system),
    )
    if not config.data.cache_folder:
        for encoder in encoders:
            _ = encoder.network
    return encoders


@contextmanager
def borrowed(*networks: OnDemand) -> Iterator[None]:
    """A context after which those networks leave the memory that were not there before."""
    before = [network.loaded for network in networks]
    try:
        yield
    finally:
        for network, was_loaded in zip(networks, before, strict=True):
            if not was_loaded:
                network.release()


def tensor_shapes(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """As `checkpoint.read_tensors`, with tensors of shapes without values; of safetensors only the header is read."""
    with checkpoint.headers_only():
        tensors, metadata = checkpoint.read_tensors(path)
    return {name: tensor.to("meta") for name, tensor in tensors.items()}, metadata
