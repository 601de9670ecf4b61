"""Extreme eigenvalues and the trace of a symmetric operator that is known by its products with vectors alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from fairforget.errors import FairforgetError, UsageError
from fairforget.progress import task

Operator: TypeAlias = Callable[[Tensor], Tensor]
"""v -> H v, flat vectors."""


@dataclass(frozen=True)
class Ritz:
    """What Lanczos found.

    Attributes:
        values: Ritz values, ascending, (k,); those at the ends come first to an eigenvalue.
        errors: residual norms ‖H y − θ y‖ = |β_k s_k| of the unit Ritz vectors, (k,): H has an eigenvalue within that of each value. Never
            below the rounding of a product; what products themselves err by (central differences) is not in it.
        products: products with H.
    """

    values: NDArray[np.float64]
    errors: NDArray[np.float64]
    products: int

    @property
    def dominant(self) -> int:
        """Place of the value that is largest in size."""
        return 0 if abs(self.values[0]) > abs(self.values[-1]) else len(self.values) - 1


@dataclass(frozen=True)
class Estimate:
    """A figure with its error: a residual norm, or a standard error."""

    value: float
    error: float


def lanczos(operator: Operator, start: Tensor, *, vectors: int = 30, tolerance: float = 0.0) -> Ritz:
    """Lanczos with full reorthogonalisation (Golub and Van Loan 2013, section 10.3; Parlett 1998, section 13).

    Every new vector is made orthogonal to all earlier ones twice, without which copies of the extreme values appear. Memory is `vectors`
    vectors and three more. A basis that cannot be extended spans an invariant subspace; its values are then eigenvalues.

    Args:
        operator: H, symmetric.
        start: any non-zero vector (n,); random ones meet every eigenvector.
        vectors: m, at most n.
        tolerance: stop when both ends have a residual under this share of the spectral radius.

    Raises:
        FairforgetError: a product is not finite.
    """
    if vectors < 1:
        raise UsageError(f"Lanczos needs at least one vector, not {vectors}.")
    limit = min(vectors, start.numel())
    basis = torch.empty((limit, start.numel()), dtype=start.dtype, device=start.device)
    basis[0] = start / start.norm()
    diagonal, beside = list[float](), list[float]()
    values = errors = np.empty(0)
    with task("Lanczos", limit) as advance:
        for step in range(limit):
            new = operator(basis[step])
            if not bool(torch.isfinite(new).all()):
                raise FairforgetError("A product with the Hessian is not finite: the loss overflows near these weights.")
            diagonal.append(float(torch.dot(new, basis[step])))
            size = float(new.norm())
            known = basis[: step + 1]
            for _ in range(2):
                new = new - known.T @ (known @ new)
            beside.append(float(new.norm()))
            values, turned = eigh_tridiagonal(np.array(diagonal), np.array(beside[:-1]))
            radius, rounding = max(abs(values[0]), abs(values[-1])), torch.finfo(start.dtype).eps
            errors = np.maximum(np.abs(beside[-1] * turned[-1]), rounding * radius)
            advance(1)
            # what is left of a product inside the span is rounding, and would be normalised into a vector of noise
            closed = beside[-1] <= 10 * rounding * max(size, radius)
            if closed or step + 1 == limit or (step > 1 and max(errors[0], errors[-1]) <= tolerance * radius):
                break
            basis[step + 1] = new / beside[-1]
    return Ritz(values, errors, len(diagonal))


def power_iteration(operator: Operator, start: Tensor, *, iterations: int = 100, tolerance: float = 0.0) -> Estimate:
    """The eigenvalue of largest size with its sign, and the residual ‖H v − λ v‖; a cross-check of Lanczos that is slower to converge.

    The Rayleigh quotient is never larger in size than the spectral radius. Where two eigenvalues of opposite sign are nearly equal in size
    it does not converge, and the residual says so.

    Args:
        operator: H, symmetric.
        start: any non-zero vector (n,).
        iterations: products with H.
        tolerance: stop when the residual is under this share of the value.
    """
    if iterations < 1:
        raise UsageError(f"Power iteration needs at least one product, not {iterations}.")
    vector = start / start.norm()
    value = residual = 0.0
    with task("power iteration", iterations) as advance:
        for _ in range(iterations):
            product = operator(vector)
            value = float(torch.dot(product, vector))
            residual = float((product - value * vector).norm())
            size = float(product.norm())
            advance(1)
            if size == 0 or residual <= tolerance * abs(value):
                break
            vector = product / size
    return Estimate(value, residual)


def hutchinson_trace(operator: Operator, like: Tensor, *, probes: int = 10, seed: int = 0) -> Estimate:
    """The trace as the mean of zᵀ H z over vectors z of random signs, with its standard error (Hutchinson 1990).

    Args:
        operator: H, symmetric.
        like: a vector (n,) whose size, type and device the probes have.
        probes: number of z; at least two for a standard error.
        seed: of the signs, which are the same on every device.
    """
    if probes < 2:
        raise UsageError(f"The trace needs at least two probes for its standard error, not {probes}.")
    generator = torch.Generator().manual_seed(seed)
    found: list[float] = []
    with task("trace", probes) as advance:
        for _ in range(probes):
            signs = torch.randint(0, 2, (like.numel(),), generator=generator, dtype=torch.int8).to(like).mul_(2).sub_(1)
            found.append(float(torch.dot(signs, operator(signs))))
            advance(1)
    return Estimate(float(np.mean(found)), float(np.std(found, ddof=1) / np.sqrt(probes)))


def random_vector(like: Tensor, seed: int) -> Tensor:
    """A standard normal vector of the size, type and device of another, the same on every device."""
    return torch.randn(like.numel(), generator=torch.Generator().manual_seed(seed), dtype=like.dtype).to(like.device)
