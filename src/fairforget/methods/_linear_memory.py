"""A linear module as an associative memory: closed-form changes that give chosen keys chosen values and disturb all others least.

W maps a key k (its input) to a value v (its output). Of all changes that give the keys K new values W K + R, these move the outputs for
other inputs least, where what is usual is described by the uncentred second moment of inputs, C = E[k kᵀ].
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairforget.edits import LowRank
from fairforget.errors import UsageError

_SINGULAR = 1e-7  # an eigenvalue of the whitened Gram matrix under this share of the largest: two keys ask for one thing


def shrunk(moment: Tensor, shrinkage: float) -> Tensor:
    """(1 - s) C + s diag(C) + s · 1e-6 (tr C / d) I: a second moment of few samples made safe to invert.

    The target is C's own diagonal (target D of Schäfer and Strimmer 2005), not its mean: where the first token of a text has a few
    activations thousands of times the usual ones, a mean would drown every other input. The last term is for inputs that are never active.

    Args:
        moment: (d, d), symmetric, positive semi-definite.
        shrinkage: s in [0, 1].
    """
    diagonal = moment.diagonal()
    return (1 - shrinkage) * moment + shrinkage * torch.diag(diagonal + 1e-6 * diagonal.mean())


def exact_update(keys: Tensor, residuals: Tensor, moment: Tensor) -> LowRank:
    """The least change with (W + Δ) kᵢ = W kᵢ + rᵢ exactly: Δ = R (Kᵀ C⁻¹ K)⁻¹ Kᵀ C⁻¹.

    For one key it is the rank-one change of Meng et al. 2022 (arXiv 2202.05262, eq. 2), for several that of Gupta et al. 2024
    (arXiv 2403.14236). One and the same key is used throughout: with different ones in numerator and denominator the change can be of any
    size (kmeng01/rome, pull request 44).

    Args:
        keys: K, (n, inputs).
        residuals: R, (n, outputs).
        moment: C, (inputs, inputs), positive definite.

    Returns:
        Δ of rank n.

    Raises:
        UsageError: keys that are (nearly) linearly dependent.
    """
    k, r, c = (tensor.double() for tensor in (keys, residuals, moment))
    whitened = _solve(c, k.T)  # C⁻¹ K, (inputs, n)
    gram = k @ whitened
    values = torch.linalg.eigvalsh(gram)
    if values[0] <= _SINGULAR * values[-1]:
        raise UsageError(
            "Some associations have the same key, so that they cannot all be given their own values exactly: use constraint=least-squares, "
            "or fewer pairs."
        )
    return LowRank(A=torch.linalg.solve(gram, whitened.T).float(), B=r.T.float())


def least_squares_update(keys: Tensor, residuals: Tensor, moment: Tensor, weight: float) -> LowRank:
    """The change that minimises Σ ‖Δ kᵢ - rᵢ‖² + λ E‖Δ k‖²: Δ = R Kᵀ (λ C + K Kᵀ)⁻¹ (Meng et al. 2023, arXiv 2210.07229, eq. 14).

    Args:
        keys: K, (n, inputs).
        residuals: R, (n, outputs).
        moment: C, (inputs, inputs), positive definite.
        weight: λ, in keys: how many of them the usual inputs count for.

    Returns:
        Δ of rank n.
    """
    k, r, c = (tensor.double() for tensor in (keys, residuals, moment))
    return LowRank(A=_solve(weight * c + k.T @ k, k.T).T.float(), B=r.T.float())


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if bool(failed):
        raise UsageError("The second moment of the keys cannot be inverted: raise `shrinkage`, or give more retain text.")
    return torch.cholesky_solve(right, factor)
