"""Which of PCGU's vectors are changed: the most contrasting ones, a stretch of the ranking, or those that give most for their cost."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fairforget.methods._pcgu_vectors import cosines

Update = Literal["advantaged", "disadvantaged", "contrast", "dynamic"]

ZERO_NORM = 1e-12
"""Norm below which a gradient counts as zero."""


def similarities(sums: Tensor, present: Tensor, *, skip_zero_gradient: bool) -> Tensor:
    """What vectors are ranked by, smallest first: the cosine of their two gradients; infinity for those that are not to be chosen.

    Args:
        sums: (3, vectors): ⟨G_dis, G_adv⟩, ‖G_dis‖², ‖G_adv‖².
        present: bool (vectors,), whether both gradients exist.
        skip_zero_gradient: leave out vectors of which a gradient is zero, whose cosine of 0 says nothing.
    """
    found = cosines(sums)
    barred = ~present
    if skip_zero_gradient:
        barred |= (sums[1:].sqrt() < ZERO_NORM).any(dim=0)
    return found.masked_fill(barred, torch.inf)


def smallest(values: Tensor, count: int) -> Tensor:
    """Numbers of the `count` smallest finite values over all tensors at once; of equal values the first. Ascending by value."""
    order = torch.sort(values.cpu(), stable=True)
    return order.indices[: min(count, int(torch.isfinite(order.values).sum()))]


def ranked_between(values: Tensor, low: float, high: float) -> Tensor:
    """Numbers of the vectors whose rank by value lies in [low, high), as shares of all that are ranked (spec: the interval diagnosis)."""
    order = smallest(values, values.numel())
    return order[round(low * len(order)) : round(high * len(order))]


def benefits(sums: Tensor, update: Update, learning_rate: float) -> Tensor:
    """First-order fall of J_adv − J_dis when one vector makes its step −η u: η ⟨G_adv − G_dis, u⟩.

    Args:
        sums: as in :func:`similarities`.
        update: which direction u is; G_adv, −G_dis, or G_adv − G_dis.
        learning_rate: η.
    """
    dot, disadvantaged, advantaged = sums
    if update == "advantaged":
        return learning_rate * (advantaged - dot)
    if update == "disadvantaged":
        return learning_rate * (disadvantaged - dot)
    return learning_rate * (advantaged - 2 * dot + disadvantaged)


def costs(retain_products: Tensor, curvatures: Tensor, learning_rate: float) -> Tensor:
    """Predicted rise of the cross-entropy on retained text when one vector makes its step −η u, nats per token.

    max(0, −η ⟨g_ret, u⟩) + ½ η² Σ F_j u_j², with the gradient g_ret of that cross-entropy and its diagonal Fisher F.

    Args:
        retain_products: (vectors,), ⟨g_ret, u⟩.
        curvatures: (vectors,), Σ F_j u_j².
        learning_rate: η.
    """
    return (-learning_rate * retain_products).clamp_min(0) + 0.5 * learning_rate**2 * curvatures


def most_for_cost(benefit: Tensor, cost: Tensor, count: int, budget: float, barred: Tensor) -> Tensor:
    """Numbers of the vectors with the largest benefit per cost, taken greedily until `count` or until their costs pass the budget.

    Args:
        benefit: (vectors,), see :func:`benefits`; only positive ones are taken.
        cost: (vectors,), at least 0.
        count: most vectors.
        budget: what all costs together may be.
        barred: bool (vectors,), those that are not to be chosen.
    """
    ratio = (benefit.double() / (cost.double() + ZERO_NORM)).masked_fill(barred | (benefit <= 0), -torch.inf)
    order = smallest(-ratio, count)
    spent = cost.cpu().double()[order].cumsum(0)
    return order[: int((spent <= budget).sum())]
