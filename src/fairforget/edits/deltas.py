"""The change of one parameter: dense or low-rank, and how it is put on a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from fairforget.errors import UsageError


@dataclass(frozen=True, eq=False)
class Dense:
    """A full change of one parameter.

    Attributes:
        delta: floating, the shape of the parameter as the model stores it.
    """

    delta: Tensor

    def __post_init__(self) -> None:
        if not self.delta.is_floating_point():
            raise UsageError(f"A dense change must hold floating-point numbers, not {self.delta.dtype}.")
        object.__setattr__(self, "delta", self.delta.detach())

    def matrix(self, *, transposed: bool, dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
        """The change as the model stores it; `transposed` says nothing here, since a dense change is kept in the stored layout."""
        del transposed
        return self.delta.to(device=device, dtype=dtype)


@dataclass(frozen=True, eq=False)
class LowRank:
    """A change scale · B · A of one weight matrix (Hu et al. 2022, arXiv 2106.09685, eq. 3), in the orientation of ``torch.nn.Linear``.

    Attributes:
        A: (rank, in_features).
        B: (out_features, rank).
        scale: what the product is multiplied by, e.g. alpha / rank.
    """

    A: Tensor
    B: Tensor
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.A.ndim != 2 or self.B.ndim != 2 or self.A.shape[0] != self.B.shape[1]:
            raise UsageError(
                f"The factors of a low-rank change must be A (rank, in) and B (out, rank); "
                f"these are A {tuple(self.A.shape)} and B {tuple(self.B.shape)}."
            )
        if not (self.A.is_floating_point() and self.B.is_floating_point()):
            raise UsageError(f"The factors of a low-rank change must hold floating-point numbers, not {self.A.dtype} and {self.B.dtype}.")
        object.__setattr__(self, "A", self.A.detach())
        object.__setattr__(self, "B", self.B.detach())

    @property
    def rank(self) -> int:
        """Number of rows of A."""
        return self.A.shape[0]

    def matrix(self, *, transposed: bool, dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
        """The product scale · B · A, turned round for a weight that is stored (in, out)."""
        product = self.folded_b(1.0, dtype, device) @ self.A.to(device=device, dtype=dtype)
        return product.T if transposed else product

    def folded_b(self, factor: float, dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
        """B · (factor · scale): sign, strength and scale go into this one factor, never into both, where a sign would cancel."""
        return self.B.to(device=device, dtype=dtype) * (factor * self.scale)


Delta: TypeAlias = Dense | LowRank


@torch.no_grad()
def edited_tensor(base: Tensor, terms: Sequence[tuple[Delta, float]], *, transposed: bool = False) -> Tensor:
    """θ₀ + Σ sᵢ · δᵢ, computed in float32 (float64 for a float64 tensor) and cast once.

    Args:
        base: θ₀, floating; not changed.
        terms: changes and their strengths; a strength of 0 is left out, so that it is the base to the last bit.
        transposed: the tensor is stored (in, out), as in GPT-2's Conv1D.

    Returns:
        A new tensor of the type, shape and device of `base`.
    """
    if all(strength == 0 for _, strength in terms):
        return base.clone()
    dtype = torch.promote_types(base.dtype, torch.float32)
    total = base.to(dtype, copy=True)
    for delta, strength in terms:
        if strength != 0:
            total.add_(delta.matrix(transposed=transposed, dtype=dtype, device=base.device), alpha=strength)
    return total.to(base.dtype)
