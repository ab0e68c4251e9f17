"""Frechet distance between two sets of pictures in a feature space: FID when the features are Inception's.

Heusel et al. 2017, Eq. 6: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), with the means m and unbiased covariances C.
The trace of the root needs no matrix root: with C = R' R / (n - 1) it is the sum of the singular values of R1 R2',
divided by the roots of n1 - 1 and n2 - 1. R is the triangle of a QR decomposition, so no more rows than features.

The distance is biased upwards for small sets (Chong and Forsyth 2020): compare sets of equal size only, and take
several thousand pictures for numbers to publish.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from colorize.pictures.ranges import model_to_unit
from trainer.config import ConfigError
from trainer.models import checkpoint

Features = Callable[[torch.Tensor], torch.Tensor]
"""Pictures (B, 3, H, W) in [-1, 1] -> features (B, D)."""

INCEPTION_SIDE = 299
FID_CLASSES, IMAGENET_CLASSES = 1008, 1000
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Rows:
    """Features (N, D) that are read chunk by chunk, as often as they are asked for: 50,000 need not fit in memory."""

    def __init__(self, chunks: Callable[[], Iterable[torch.Tensor]]) -> None:
        """chunks() begins a pass over tensors (n, D), in order."""
        self.chunks = chunks

    @classmethod
    def of(cls, features: torch.Tensor | Rows) -> Rows:
        return features if isinstance(features, Rows) else cls(lambda: [features])

    def blocks(self) -> Iterator[torch.Tensor]:
        """A pass in blocks of at least D rows, the last one aside: updates of moments cost as much as D rows."""
        waiting: list[torch.Tensor] = []
        for chunk in self.chunks():
            waiting.append(chunk)
            if sum(map(len, waiting)) >= chunk.shape[1]:
                yield torch.cat(waiting)
                waiting = []
        if waiting:
            yield torch.cat(waiting)

    def count(self) -> int:
        """N, by a pass."""
        return sum(len(chunk) for chunk in self.chunks())

    def all(self) -> torch.Tensor:
        """(N, D), in memory."""
        return torch.cat(list(self.chunks()))


def frechet_distance(ours: torch.Tensor | Rows, theirs: torch.Tensor | Rows) -> float:
    """Distance of features (N, D) and (M, D), at least two rows each, in float64."""
    return _distance(*(_Moments.of(Rows.of(features)) for features in (ours, theirs)))


class _Moments:
    """Mean (D,) and a factor R (min(N, D) or N, D) with R' R = the sum of outer products of centred rows.

    Blocks are joined by the update of Chan, Golub and LeVeque 1979: their scatters add, and the means' distance counts
    as one more row. R is brought back to a triangle by QR, so memory does not grow with N.
    """

    def __init__(self, features: torch.Tensor) -> None:
        self.count = len(features)
        self.mean = features.mean(0)
        self.factor = _triangle(features - self.mean)

    @classmethod
    def of(cls, rows: Rows) -> _Moments:
        found: _Moments | None = None
        for block in rows.blocks():
            if block.ndim != 2:
                raise ValueError(f"Features of the shape {tuple(block.shape)} have no covariance; give rows.")
            own = cls(block.double())
            found = own if found is None else found._join(own)
        if found is None or found.count < 2:
            raise ValueError(f"{found.count if found else 0} rows have no covariance; give two or more.")
        return found

    def _join(self, other: _Moments) -> _Moments:
        count, apart = self.count + other.count, other.mean - self.mean
        between = apart * (self.count * other.count / count) ** 0.5
        self.factor = _triangle(torch.cat([self.factor, other.factor, between[None]]))
        self.mean = self.mean + apart * (other.count / count)
        self.count = count
        return self

    @property
    def root(self) -> torch.Tensor:
        """R with R' R = the unbiased covariance."""
        return self.factor / (self.count - 1) ** 0.5


def _triangle(rows: torch.Tensor) -> torch.Tensor:
    """The same R' R in no more rows than columns."""
    return torch.linalg.qr(rows, mode="r").R if len(rows) > rows.shape[1] else rows


def _distance(first: _Moments, second: _Moments) -> float:
    ours, theirs = first.root, second.root
    root = torch.linalg.svdvals(ours @ theirs.T).sum()
    traces = float(ours.square().sum()) + float(theirs.square().sum())
    return float((first.mean - second.mean).square().sum()) + traces - 2 * float(root)


def frechet_interval(
    ours: torch.Tensor | Rows, theirs: torch.Tensor | Rows, draws: int = 200, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the distance over the pictures of `ours`, whose rows (N, D) are drawn again with replacement.

    A draw repeats pictures and so has a larger distance than the set itself (the bias of small sets); the interval is
    moved back by the median of that difference. `theirs`, the pictures aimed at, stay as they are. It costs as much as
    `draws` / 2 distances, and holds `ours` in memory.
    """
    second, rows = _Moments.of(Rows.of(theirs)), Rows.of(ours).all()
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(0, len(rows), (draws, len(rows)), generator=generator)
    estimates = torch.tensor([_distance(_Moments(rows[own].double()), second) for own in chosen])
    estimates += frechet_distance(rows, theirs) - estimates.median()
    low, high = torch.quantile(estimates, torch.tensor([0.025, 0.975])).tolist()
    return low, high


# -- Inception ---------------------------------------------------------------------------------------------------------


def inception(path: str | Path, device: torch.device | str = "cpu") -> tuple[Features, str]:
    """The pooled features (B, 2048) of an Inception v3 file, and what to call the distance between them.

    Weights with 1008 classes are those of the published FID (pytorch-fid's pt_inception-2015-12-05): "fid".
    torchvision's ImageNet weights (1000 classes) give the same kind of distance with other numbers: "fid_torchvision".
    Plain tensor files (.pth, .pt, .safetensors). Raises ConfigError for anything else.
    """
    try:
        from torchvision.models.inception import Inception3, InceptionA, InceptionC, InceptionE
    except ImportError:
        raise ConfigError("FID needs torchvision of the same release as torch: pip install torchvision.") from None
    tensors, _ = checkpoint.read_tensors(Path(path))
    tensors = {name: value for name, value in tensors.items() if not name.startswith("AuxLogits.")}
    classes = len(tensors["fc.bias"]) if "fc.bias" in tensors else None
    if classes not in (FID_CLASSES, IMAGENET_CLASSES):
        found = ", ".join(list(tensors)[:10])
        raise ConfigError(
            f"{path} is no Inception v3 with 1008 classes (the weights of FID) or 1000 (torchvision); it holds {found}."
        )
    network = Inception3(num_classes=classes, aux_logits=False, init_weights=False)
    if classes == FID_CLASSES:
        pooled = {kind: _with_pool(kind, _mean_inside) for kind in (InceptionA, InceptionC, InceptionE)}
        for block in network.children():
            if type(block) in pooled:
                block.__class__ = pooled[type(block)]
        network.Mixed_7c.__class__ = _with_pool(InceptionE, _largest)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ConfigError(f"{path} is no whole Inception v3: {error}") from None
    network.fc = nn.Identity()
    network.to(device).eval()

    @torch.no_grad()
    def features(pictures: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(pictures.float().to(device).clamp(-1, 1), (INCEPTION_SIDE, INCEPTION_SIDE), mode="bilinear")
        if classes == IMAGENET_CLASSES:
            mean, std = (x.new_tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
            x = (model_to_unit(x) - mean) / std
        return network(x).float().cpu()

    return features, "fid" if classes == FID_CLASSES else "fid_torchvision"


def _mean_inside(x: torch.Tensor) -> torch.Tensor:
    """Average of 3x3 pixels; at the border, of those inside."""
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _largest(x: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(x, 3, 1, 1)


def _with_pool(kind: type[nn.Module], pool: Callable[[torch.Tensor], torch.Tensor]) -> type[nn.Module]:
    """A torchvision block whose pooling branch pools like that of FID's network: that is all in which they differ."""

    class Block(kind):  # type: ignore[valid-type, misc]  # the kind is known when it runs
        def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            *branches, _ = super()._forward(x)
            return [*branches, self.branch_pool(pool(x))]

    return Block
