"""Moving least squares: the deformation that ColorizeDiffusion v1's paper bends references by.

Schaefer, McPhail, Warren: Image Deformation Using Moving Least Squares (SIGGRAPH 2006). Control points p_i move to q_i.
A place v moves by the transformation l_v that minimises sum_i w_i |l_v(p_i) - q_i|^2 with w_i = |p_i - v|^(-2 alpha),
out of all affine, similar or rigid ones. With points of the plane as complex numbers (p^ = p_i - p*, q^ = q_i - q*, the
stars are the weighted means) the paper's equations 5, 6 and 8 become

    similar     f(v) = q* + (v - p*) c,        c = sum w q^ conj(p^) / sum w |p^|^2
    rigid       f(v) = q* + (v - p*) c / |c|
    affine      f(v) = q* + (v - p*) M,        M = (sum w p^T p^)^-1 sum w p^T q^      (rows of real numbers)
"""

from __future__ import annotations

import torch

VARIANTS = ("rigid", "similar", "affine")
_NEAREST = 1e-12  # squared distance below which a place counts as the control point itself


def move(
    places: torch.Tensor, points: torch.Tensor, targets: torch.Tensor, variant: str = "rigid", alpha: float = 1.0
) -> torch.Tensor:
    """Where `places` (N, 2) go when control points `points` (K, 2) go to `targets` (K, 2), as x, y; float64 inside.

    ValueError for an unknown variant. A place on a control point goes where the point goes.
    """
    if variant not in VARIANTS:
        raise ValueError(f"Moving least squares variant {variant!r} is unknown; choose one of {', '.join(VARIANTS)}.")
    kind = places.dtype
    v, p, q = (values.double() for values in (places, points, targets))
    squared = (v[:, None] - p).square().sum(-1)  # (N, K)
    weights = squared.clamp_min(_NEAREST).pow(-alpha)
    weights = (weights / weights.sum(1, keepdim=True))[..., None]  # (N, K, 1)
    p_mean, q_mean = (weights * p).sum(1), (weights * q).sum(1)
    p_hat, q_hat = p - p_mean[:, None], q - q_mean[:, None]
    if variant == "affine":
        moments = torch.einsum("nka,nkb->nab", weights * p_hat, p_hat)
        mixed = torch.einsum("nka,nkb->nab", weights * p_hat, q_hat)
        moved = q_mean + torch.einsum("na,nab->nb", v - p_mean, torch.linalg.solve(moments, mixed))
    else:
        w, p_hat, q_hat = weights[..., 0], *(torch.view_as_complex(x.contiguous()) for x in (p_hat, q_hat))
        turn = (w * q_hat * p_hat.conj()).sum(1)
        scale = turn.abs() if variant == "rigid" else (w * p_hat.abs().square()).sum(1)
        offset = torch.view_as_complex((v - p_mean).contiguous()) * turn / scale.clamp_min(1e-300)
        moved = q_mean + torch.view_as_real(offset)
    nearest, which = squared.min(1)
    return torch.where((nearest < _NEAREST)[:, None], q[which], moved).to(kind)
