"""The statistics of neural collapse, as functions of class means, spreads and rows of the output matrix.

C' = μ - m, m the mean of the class means; û = u / ‖u‖; pairs are unordered. Everything is float64 and differentiable, since the influence
of a document on a figure is the figure's slope (:func:`linearised`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

BLOCK = 1024
"""Rows of pairs held at once."""
PAIR_CLASSES = 4096
"""Of more classes than this, figures over pairs are taken within a seeded draw of so many."""
_TINY = 1e-300

Kernel = Callable[[Tensor, Tensor], Tensor]
"""Squared distances (rows, K) and mean spreads of the two classes (rows, K) to the values of F figures, (F, rows, K)."""


@dataclass(frozen=True)
class Statistic:
    """One figure of collapse.

    Attributes:
        name: as in tables.
        better: direction of more collapse.
        least: classes that it needs.
        description: formula and ideal.
        unit: ``cosine``, or none.
    """

    name: str
    better: Literal["higher", "lower"]
    least: int
    description: str
    unit: Literal["", "cosine"] = ""


STATISTICS: tuple[Statistic, ...] = (
    Statistic("unc3", "lower", 2, "(U)NC3: standard deviation over words of cos(w, μ - m); 0 also where every cosine is -1.", "cosine"),
    Statistic("nc3_mean", "higher", 2, "NC3: mean over words of cos(w, μ - m); to be read with unc3. Ideal 1.", "cosine"),
    Statistic("nc3_error", "lower", 3, "NC3 error: Frobenius distance of W C'ᵀ, normed, from a simplex (at most d + 1 words). Ideal 0."),
    Statistic("nc1", "lower", 2, "NC1: mean over pairs of (v + v') / 2 / ‖μ - μ'‖⁴ (e = 2, as released). Ideal 0."),
    Statistic("nc1_e1", "lower", 2, "NC1 as Galanti et al. 2022 define it: (v + v') / 2 / ‖μ - μ'‖². Ideal 0."),
    Statistic("nc2_norm_cv", "lower", 3, "NC2, equal norms: standard deviation of ‖μ - m‖ over its mean. Ideal 0."),
    Statistic("nc2_log_norm_var", "lower", 3, "NC2, equal norms: variance of log ‖μ - m‖. Ideal 0."),
    Statistic("nc2_cos_mean", "lower", 3, "NC2, equal angles: mean cosine of two centred means. Ideal -1 / (K - 1).", "cosine"),
    Statistic("nc2_cos_std", "lower", 3, "NC2, equal angles: standard deviation of that cosine. Ideal 0.", "cosine"),
    Statistic("nc2_etf_gap", "lower", 3, "NC2: mean over pairs of |cos + 1 / (K - 1)|. Ideal 0.", "cosine"),
    Statistic("nc2_etf_error", "lower", 3, "NC2: Frobenius distance of C'C'ᵀ, normed, from a simplex (at most d + 1 words). Ideal 0."),
    Statistic("gnc2_mean", "lower", 3, "(G)NC2: mean of log(1 / ‖û - û'‖). Simplex: -½ ln(2K / (K - 1))."),
    Statistic("gnc2_std", "lower", 3, "(G)NC2: standard deviation of log(1 / ‖û - û'‖). Ideal 0."),
    Statistic("nc1_w", "lower", 2, "NC1 calibrated by the output matrix: (v + v') / 2 / ‖w - w'‖⁴."),
    Statistic("gnc2_w_mean", "lower", 3, "(G)NC2 of the output matrix: mean of log(1 / ‖w - w'‖)."),
    Statistic("gnc2_w_std", "lower", 3, "(G)NC2 of the output matrix: standard deviation of log(1 / ‖w - w'‖)."),
)
"""All figures but NC4, which is a rate over tokens."""


def self_duality(means: Tensor, rows: Tensor, counts: Tensor | None = None) -> Tensor:
    """Cosine of each word's row with its centred mean, (K,); ``nan`` where one of them is zero.

    Args:
        means: (K, d).
        rows: (K, d).
        counts: (K,), to centre on the mean over samples in place of that over classes.
    """
    centred = means - _centre(means, counts)
    norms = centred.norm(dim=1) * rows.norm(dim=1)
    least = 1e-12 * means.norm(dim=1).max() * rows.norm(dim=1).max()
    return torch.where(norms > least, (centred * rows).sum(dim=1) / norms.clamp(min=_TINY), torch.nan)


def collapse_statistics(
    means: Tensor, variances: Tensor, counts: Tensor, rows: Tensor, *, weighted: bool = False
) -> dict[str, Tensor]:
    """The figures of ``STATISTICS``.

    Standard deviations over words and the variance of log norms are Bessel-corrected (as released); those over pairs are not.

    Args:
        means: float64 (K, d), class means, each of at least one state.
        variances: float64 (K,), mean squared distances from them.
        counts: int64 (K,); NC1 looks at classes of two or more states only, since one has no spread.
        rows: float64 (K, d), the words' rows of the output matrix.
        weighted: centre on the mean over samples in place of that over classes.

    Returns:
        Scalars by name; a figure that is not defined for so few or so many classes is missing.
    """
    found: dict[str, Tensor] = {}
    width = means.shape[1]
    cosines = self_duality(means, rows, counts if weighted else None)
    defined = cosines[~cosines.isnan()]
    if len(defined) >= 2:
        found["unc3"] = _root(defined.var())
        found["nc3_mean"] = defined.mean()
    spread = counts >= 2
    if int(spread.sum()) >= 2:
        own = _drawn(int(spread.sum()), means.device)
        v = variances[spread][own]
        (found["nc1_e1"], found["nc1"]), _ = pair_figures(means[spread][own], v, _variabilities)
        (_, found["nc1_w"]), _ = pair_figures(rows[spread][own], v, _variabilities)
    centred = means - _centre(means, counts if weighted else None)
    if len(means) >= 3:
        norms = centred.norm(dim=1)
        found["nc2_norm_cv"] = _root(norms.var()) / norms.mean()
        found["nc2_log_norm_var"] = norms.clamp(min=_TINY).log().var()
        own = _drawn(len(means), means.device)
        units = (centred / norms.clamp(min=_TINY).unsqueeze(1))[own]
        frame = 1 / (len(means) - 1)

        def angles(distances: Tensor, _: Tensor) -> Tensor:
            cosine = 1 - distances / 2
            return torch.stack([cosine, (cosine + frame).abs(), -distances.log() / 2])

        (found["nc2_cos_mean"], found["nc2_etf_gap"], found["gnc2_mean"]), (found["nc2_cos_std"], _, found["gnc2_std"]) = pair_figures(
            units, variances[own], angles
        )
        (found["gnc2_w_mean"],), (found["gnc2_w_std"],) = pair_figures(
            rows[own], variances[own], lambda distances, _: -distances.log().unsqueeze(0) / 2
        )
        if len(means) <= width + 1:
            found["nc2_etf_error"] = frame_error(centred @ centred.T)
            found["nc3_error"] = frame_error(rows @ centred.T)
    return {statistic.name: found[statistic.name] for statistic in STATISTICS if statistic.name in found}


def pair_figures(points: Tensor, variances: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over unordered pairs of the F figures of a kernel, (F,) each.

    Args:
        points: (K, d).
        variances: (K,).
        kernel: figures from squared distances.
    """
    points = points - points.detach().mean(dim=0)  # distances stay, digits are kept
    squares = points.square().sum(dim=1)
    count = len(points)

    def block(start: int, points: Tensor, squares: Tensor, variances: Tensor, about: Tensor | None) -> Tensor:
        chosen = slice(start, start + BLOCK)
        distances = (squares[chosen, None] + squares[None, :] - 2 * points[chosen] @ points.T).clamp(min=0)
        upper = torch.ones_like(distances, dtype=torch.bool).triu(start + 1)
        values = kernel(distances.masked_fill(~upper, 1.0), (variances[chosen, None] + variances[None, :]) / 2)
        values = values if about is None else (values - about[:, None, None]).square()
        return torch.where(upper, values, 0.0).sum(dim=(1, 2))

    def summed(about: Tensor | None) -> Tensor:
        parts = [
            checkpoint(block, start, points, squares, variances, about, use_reentrant=False)
            if count > BLOCK else block(start, points, squares, variances, about)
            for start in range(0, count, BLOCK)
        ]
        return torch.stack(parts).sum(dim=0) / (count * (count - 1) / 2)  # type: ignore[arg-type]

    mean = summed(None)
    # The mean may be taken as given in the second pass: about it the sum of squares is least, so that its slope there is 0.
    return mean, _root(summed(mean.detach()))


def frame_error(products: Tensor) -> Tensor:
    """Frobenius distance of a K x K table of products, of norm 1, from that of a simplex frame, (I - 11ᵀ / K) / √(K - 1)."""
    count = len(products)
    frame = (torch.eye(count, dtype=products.dtype, device=products.device) - 1 / count) / math.sqrt(count - 1)
    return _root((products / products.norm() - frame).square().sum())


def linearised(
    means: Tensor, variances: Tensor, counts: Tensor, rows: Tensor, *, weighted: bool = False
) -> tuple[dict[str, float], Tensor, Tensor]:
    """Figures and their slopes with respect to class means and spreads.

    Returns:
        The figures that are finite numbers by name, in the order of ``STATISTICS``; their slopes (M, K, d) and (M, K).
    """
    with torch.enable_grad():
        means, variances = means.detach().requires_grad_(), variances.detach().requires_grad_()
        values = collapse_statistics(means, variances, counts, rows.detach(), weighted=weighted)
        kept = {name: value for name, value in values.items() if math.isfinite(float(value.detach()))}
        # many classes: slopes in single precision, or they would take M times the room of the means
        precision = torch.float32 if len(kept) * means.numel() > 2**26 else torch.float64
        by_mean = torch.zeros((len(kept), *means.shape), dtype=precision, device=means.device)
        by_variance = torch.zeros((len(kept), *variances.shape), dtype=precision, device=means.device)
        for number, value in enumerate(kept.values()):
            if not value.requires_grad:
                continue
            slopes = torch.autograd.grad(value, (means, variances), retain_graph=True, materialize_grads=True)
            for table, slope in zip((by_mean, by_variance), slopes, strict=True):
                table[number] = torch.nan_to_num(slope).to(precision)
    return {name: float(value.detach()) for name, value in kept.items()}, by_mean, by_variance


def _variabilities(distances: Tensor, spreads: Tensor) -> Tensor:
    return torch.stack([spreads / distances, spreads / distances.square()])


def _centre(means: Tensor, counts: Tensor | None) -> Tensor:
    return means.mean(dim=0) if counts is None else (means * counts.unsqueeze(1)).sum(dim=0) / counts.sum()


def _root(value: Tensor) -> Tensor:
    """Square root whose slope at 0 is 0."""
    return torch.where(value > _TINY, value.clamp(min=_TINY).sqrt(), 0.0)


def _drawn(count: int, device: torch.device) -> Tensor:
    """All classes, or a seeded draw of them for figures over pairs."""
    if count <= PAIR_CLASSES:
        return torch.arange(count, device=device)
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:PAIR_CLASSES].sort().values.to(device)
